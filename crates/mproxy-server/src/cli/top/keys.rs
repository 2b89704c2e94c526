//! What keys do: they choose what is shown, and ask for a disconnect, which is confirmed first.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::figures::{SessionRow, TopFigures};

/// The longest text to look for.
const LONGEST_FILTER: usize = 64;

/// What the user has chosen so far.
#[derive(Debug, Default)]
pub(super) struct TopKeys {
    pub(super) sort: SessionSort,
    /// Only sessions that contain this are shown.
    pub(super) filter: String,
    pub(super) mode: KeyMode,
    /// The chosen session, by its connection id: it stays chosen wherever it moves.
    pub(super) chosen: Option<String>,
    /// What came of the last key.
    pub(super) notice: Option<String>,
    /// Why there are no new figures.
    pub(super) trouble: Option<String>,
}

/// By what sessions are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SessionSort {
    #[default]
    Messages,
    Bytes,
    Age,
    Client,
}

impl SessionSort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Messages => "packets/s",
            Self::Bytes => "bytes/s",
            Self::Age => "age",
            Self::Client => "client id",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Messages => Self::Bytes,
            Self::Bytes => Self::Age,
            Self::Age => Self::Client,
            Self::Client => Self::Messages,
        }
    }

    /// Those of the same rank do not change places between two samples.
    fn compare(self, a: &SessionRow, b: &SessionRow) -> Ordering {
        let bytes = |row: &SessionRow| row.client_bytes + row.broker_bytes;
        let order = match self {
            Self::Messages => b.packets.total_cmp(&a.packets),
            Self::Bytes => bytes(b).total_cmp(&bytes(a)),
            Self::Age => a.since.cmp(&b.since),
            Self::Client => a.name.cmp(&b.name),
        };
        order.then_with(|| a.name.cmp(&b.name)).then_with(|| a.connection_id.cmp(&b.connection_id))
    }
}

/// What keys mean at present.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum KeyMode {
    #[default]
    Browse,
    /// They are a text to look for.
    Filter,
    /// Is this session to be disconnected?
    Confirm { connection_id: String, name: String },
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyAction {
    Nothing,
    Quit,
    Kick { connection_id: String, name: String },
}

impl TopKeys {
    /// The sessions that are shown, in their order.
    pub(super) fn rows<'a>(&self, figures: &'a TopFigures) -> Vec<&'a SessionRow> {
        let filter = self.filter.to_lowercase();
        let contains = |text: &str| text.to_lowercase().contains(&filter);
        let mut rows: Vec<&SessionRow> = figures
            .sessions
            .iter()
            .filter(|row| {
                filter.is_empty() || contains(&row.name) || contains(&row.username) || contains(&row.from)
            })
            .collect();
        rows.sort_by(|a, b| self.sort.compare(a, b));
        rows
    }

    /// Where the chosen session is among those that are shown.
    pub(super) fn chosen_at(&self, rows: &[&SessionRow]) -> Option<usize> {
        let chosen = self.chosen.as_ref()?;
        rows.iter().position(|row| row.connection_id == *chosen)
    }

    pub(super) fn press(&mut self, key: KeyEvent, figures: &TopFigures) -> KeyAction {
        self.notice = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { KeyAction::Quit } else { KeyAction::Nothing };
        }
        match &self.mode {
            KeyMode::Browse => self.browse(key.code, figures),
            KeyMode::Filter => {
                self.edit_filter(key.code);
                KeyAction::Nothing
            }
            KeyMode::Confirm { .. } => self.confirm(key.code),
        }
    }

    fn browse(&mut self, key: KeyCode, figures: &TopFigures) -> KeyAction {
        match key {
            KeyCode::Char('q') => return KeyAction::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('/') => self.mode = KeyMode::Filter,
            KeyCode::Esc => {
                self.filter.clear();
                self.chosen = None;
            }
            KeyCode::Down => self.choose(figures, |at| at + 1),
            KeyCode::Up => self.choose(figures, |at| at.saturating_sub(1)),
            KeyCode::PageDown => self.choose(figures, |at| at + 10),
            KeyCode::PageUp => self.choose(figures, |at| at.saturating_sub(10)),
            KeyCode::Home => self.choose(figures, |_| 0),
            KeyCode::Char('k') => {
                let rows = self.rows(figures);
                match self.chosen_at(&rows).map(|at| rows[at]) {
                    Some(SessionRow { connection_id, name, .. }) => {
                        self.mode =
                            KeyMode::Confirm { connection_id: connection_id.clone(), name: name.clone() };
                    }
                    None => self.notice = Some("choose a session first, with the arrow keys".to_owned()),
                }
            }
            _ => {}
        }
        KeyAction::Nothing
    }

    /// The next one from the chosen one; the first where none is chosen.
    fn choose(&mut self, figures: &TopFigures, step: impl FnOnce(usize) -> usize) {
        let rows = self.rows(figures);
        let at = self.chosen_at(&rows).map_or(0, step).min(rows.len().saturating_sub(1));
        self.chosen = rows.get(at).map(|row| row.connection_id.clone());
    }

    fn edit_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = KeyMode::Browse,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = KeyMode::Browse;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(c) if self.filter.chars().count() < LONGEST_FILTER => self.filter.push(c),
            _ => {}
        }
    }

    /// Only `y` is yes.
    fn confirm(&mut self, key: KeyCode) -> KeyAction {
        let mode = std::mem::take(&mut self.mode);
        match (key, mode) {
            (KeyCode::Char('y' | 'Y'), KeyMode::Confirm { connection_id, name }) => {
                KeyAction::Kick { connection_id, name }
            }
            _ => {
                self.notice = Some("nobody was disconnected".to_owned());
                KeyAction::Nothing
            }
        }
    }
}
