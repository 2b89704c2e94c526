//! How it is drawn. Decides nothing.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};
use unicode_width::UnicodeWidthStr;

use super::super::units;
use super::figures::{DecisionRow, SessionRow, TopFigures};
use super::keys::{KeyMode, TopKeys};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

pub(super) fn draw(frame: &mut Frame<'_>, figures: &TopFigures, keys: &TopKeys) {
    let rates = rate_lines(&figures.rates, frame.area().width.into());
    // Sessions have what others do not need, and where there is little space, most of it.
    let panel = |lines: usize| {
        let most = (frame.area().height / 4).clamp(3, 9);
        // Its title is a line, too.
        u16::try_from(lines.max(1) + 1).unwrap_or(most).min(most)
    };
    let of_policy = figures.endpoints.len() + figures.calls.len();
    let areas = Layout::vertical([
        Constraint::Length(u16::try_from(1 + rates.len()).unwrap_or(u16::MAX)),
        Constraint::Length(panel(figures.decisions.len().max(of_policy))),
        Constraint::Min(3),
        Constraint::Length(panel(figures.refusals.len())),
        Constraint::Length(1),
    ]);
    let [head, figures_area, sessions, refusals, foot] = areas.areas(frame.area());
    let [decisions, policy] = Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)])
        .spacing(2)
        .areas(figures_area);
    let headline = Line::styled(figures.headline.as_str(), BOLD);
    let lines = std::iter::once(headline).chain(rates.into_iter().map(Line::raw));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), head);
    draw_decisions(frame, figures, decisions);
    draw_policy(frame, figures, policy);
    draw_sessions(frame, figures, keys, sessions);
    let lines: Vec<Line<'_>> = figures.refusals.iter().map(|line| Line::raw(line.as_str())).collect();
    let empty = vec![Line::raw("none on record")];
    let lines = if lines.is_empty() { empty } else { lines };
    frame.render_widget(Paragraph::new(lines).block(titled("Refusals, the newest first")), refusals);
    frame.render_widget(Paragraph::new(foot_line(keys)), foot);
}

/// As many parts in a line as have their place.
fn rate_lines(parts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.width() + 3 + part.width() <= width => {
                line.push_str("   ");
                line.push_str(part);
            }
            _ => lines.push(part.clone()),
        }
    }
    lines
}

fn titled<'a>(title: impl Into<Line<'a>>) -> Block<'a> {
    Block::new().borders(Borders::TOP).title(title).title_style(BOLD)
}

fn draw_decisions(frame: &mut Frame<'_>, figures: &TopFigures, area: Rect) {
    let row = |row: &DecisionRow| {
        let style = if row.outcome == "refused" { BAD } else { Style::new() };
        Row::new([
            Cell::new(row.what.clone()),
            Cell::new(row.outcome.clone()).style(style),
            Cell::new(Line::raw(format!("{}/s", units::number(row.rate))).right_aligned()),
        ])
    };
    let widths = [Constraint::Fill(1), Constraint::Length(9), Constraint::Length(8)];
    let block = titled("Decisions");
    if figures.decisions.is_empty() {
        frame.render_widget(Paragraph::new("none in the last second").block(block), area);
        return;
    }
    frame.render_widget(Table::new(figures.decisions.iter().map(row), widths).block(block), area);
}

fn draw_policy(frame: &mut Frame<'_>, figures: &TopFigures, area: Rect) {
    let endpoints = figures.endpoints.iter().map(|endpoint| {
        Line::styled(endpoint.text.as_str(), if endpoint.healthy { Style::new() } else { BAD })
    });
    let calls = figures.calls.iter().map(|line| Line::raw(line.as_str()));
    let mut lines: Vec<Line<'_>> = endpoints.chain(calls).collect();
    if lines.is_empty() {
        lines.push(Line::raw("there is none"));
    }
    frame.render_widget(Paragraph::new(lines).block(titled("Hook service")), area);
}

/// A column of the sessions.
struct SessionColumn {
    title: &'static str,
    width: Constraint,
    is_number: bool,
    /// On a narrower terminal it is left out: cut in two, others would say nothing.
    from_width: u16,
}

impl SessionColumn {
    const fn text(title: &'static str, width: Constraint, from_width: u16) -> Self {
        Self { title, width, is_number: false, from_width }
    }

    const fn number(title: &'static str, width: u16, from_width: u16) -> Self {
        Self { title, width: Constraint::Length(width), is_number: true, from_width }
    }
}

/// An IPv4 address and a port have their place at 80 columns; further places go to names.
const COLUMNS: [SessionColumn; 9] = [
    SessionColumn::text("CLIENT", Constraint::Fill(3), 0),
    SessionColumn::text("USER", Constraint::Fill(2), 76),
    SessionColumn::text("LISTENER", Constraint::Max(10), 104),
    SessionColumn::text("FROM", Constraint::Length(21), 60),
    SessionColumn::text("STATE", Constraint::Length(10), 92),
    SessionColumn::number("AGE", 7, 50),
    SessionColumn::number("PACKETS/S", 9, 0),
    SessionColumn::number("SENT/S", 9, 30),
    SessionColumn::number("RECEIVED/S", 10, 40),
];

fn draw_sessions(frame: &mut Frame<'_>, figures: &TopFigures, keys: &TopKeys, area: Rect) {
    let rows = keys.rows(figures);
    // Of thousands only those that have their place are made: the title and the header take two lines.
    let (place, chosen) = (usize::from(area.height.saturating_sub(2)), keys.chosen_at(&rows));
    let offset = chosen.map_or(0, |at| (at + 1).saturating_sub(place));
    let number = |value: String| Cell::new(Line::raw(value).right_aligned());
    let is_shown = |(_, column): &(Cell<'_>, &SessionColumn)| column.from_width <= area.width;
    let row = |row: &&SessionRow| {
        // What is still: not in the way of what is not.
        let is_still = row.packets == 0.0;
        let style = if is_still { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
        let cells = [
            Cell::new(row.name.clone()),
            Cell::new(row.username.clone()),
            Cell::new(row.listener.clone()),
            Cell::new(row.from.clone()),
            Cell::new(row.phase.clone()),
            number(row.age.clone()),
            number(units::number(row.packets)),
            number(units::bytes(row.client_bytes.round() as u64)),
            number(units::bytes(row.broker_bytes.round() as u64)),
        ];
        Row::new(cells.into_iter().zip(&COLUMNS).filter(is_shown).map(|(cell, _)| cell)).style(style)
    };
    let shown = || COLUMNS.iter().filter(|column| column.from_width <= area.width);
    let header = Row::new(shown().map(|column| {
        let line = Line::raw(column.title);
        Cell::new(if column.is_number { line.right_aligned() } else { line })
    }));
    let widths = shown().map(|column| column.width);
    let title = sessions_title(figures, keys, rows.len());
    let table = Table::new(rows.iter().skip(offset).take(place).map(row), widths)
        .header(header.style(BOLD))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(titled(title));
    let mut state = TableState::new().with_selected(chosen.map(|at| at - offset));
    frame.render_stateful_widget(table, area, &mut state);
}

fn sessions_title(figures: &TopFigures, keys: &TopKeys, shown: usize) -> String {
    let all = figures.sessions.len();
    let first = if figures.more_sessions { "the first " } else { "" };
    let of =
        if keys.filter.is_empty() { String::new() } else { format!("{shown} with {:?} of ", keys.filter) };
    format!("Sessions: {of}{first}{all}, by {}", keys.sort.name())
}

fn foot_line(keys: &TopKeys) -> Line<'_> {
    match (&keys.mode, &keys.notice, &keys.trouble) {
        (KeyMode::Filter, ..) => Line::from(vec![
            Span::styled("Show only: ", BOLD),
            Span::raw(keys.filter.as_str()),
            Span::raw("_   Enter keeps it, Esc clears it"),
        ]),
        (KeyMode::Confirm { name, connection_id }, ..) => {
            Line::styled(format!("Disconnect {name} (connection {connection_id})? y/N"), BAD)
        }
        (KeyMode::Browse, Some(notice), _) => Line::styled(notice.as_str(), BOLD),
        (KeyMode::Browse, None, Some(trouble)) => Line::styled(format!("no new figures: {trouble}"), BAD),
        (KeyMode::Browse, None, None) => Line::raw("q end   s sort   / filter   ↑↓ choose   k disconnect"),
    }
}
