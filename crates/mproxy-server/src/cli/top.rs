//! `mproxy top`: a running mproxy at a glance, once a second.
//!
//! | room | holds |
//! |---|---|
//! | `sample` | what the admin API says, asked by a thread of its own |
//! | `figures` | what of it is shown: rates of sessions, decisions, latencies |
//! | `keys` | what a key does |
//! | `screen` | how it is drawn |

mod figures;
mod keys;
mod sample;
mod screen;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::Duration;

use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::figures::TopFigures;
use self::keys::{KeyAction, TopKeys};
use self::sample::TopSample;
use super::admin_api::{AdminCallError, AdminClient, escaped, query};
use super::text::one_line;
use crate::config::Flags;

/// How often the mproxy is asked.
const REFRESH: Duration = Duration::from_secs(1);

/// How soon a key is seen at the latest, where the terminal is asked in turns.
const KEY_TURN: Duration = Duration::from_millis(50);

/// How long a disconnect may keep the screen waiting.
const KICK_DEADLINE: Duration = Duration::from_secs(3);

/// Where there is no terminal that would say how large it is.
const USUAL_SIZE: (u16, u16) = (120, 40);

/// How it is shown.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(after_help = KEYS)]
pub struct TopCommand {
    /// Print what there is to see after a second as text, and end; for where there is no terminal
    #[arg(long)]
    once: bool,
}

const KEYS: &str = "Keys:
  q, Ctrl-C      end
  s              sort sessions by messages, bytes, age or client id
  /              show only sessions whose client id, user name or address contains a text
  up, down       choose a session
  k              disconnect the chosen session, after a question";

/// `mproxy top`: 0 where the user ended it, 2 where it could not be asked, or there is no terminal.
pub(super) fn top(
    command: &TopCommand,
    flags: &Flags,
    out: &mut impl Write,
) -> Result<ExitCode, AdminCallError> {
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !(command.once || is_terminal) {
        return Err(AdminCallError::NoTerminal);
    }
    let client = AdminClient::new(flags)?;
    // Before the screen is taken: what cannot be asked at all is said in a line.
    let first = TopSample::ask(&client)?;
    if command.once {
        std::thread::sleep(REFRESH);
        let second = TopSample::ask(&client)?;
        let figures = TopFigures::new(Some(&first), &second, client.place());
        print_frame(&figures, out)?;
        return Ok(ExitCode::SUCCESS);
    }
    watch(&client, first)?;
    Ok(ExitCode::SUCCESS)
}

/// One frame in text, without what would only be space, and without the keys.
fn print_frame(figures: &TopFigures, out: &mut impl Write) -> io::Result<()> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let columns: u16 = number("COLUMNS").unwrap_or(USUAL_SIZE.0);
    let lines: u16 = number("LINES").unwrap_or(USUAL_SIZE.1);
    let lines = frame_lines(figures, &TopKeys::default(), columns.clamp(40, 1000), lines.clamp(10, 1000));
    let (_keys, shown) = lines.split_last().unzip();
    for line in shown.unwrap_or_default().iter().filter(|line| !line.is_empty()) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn frame_lines(figures: &TopFigures, keys: &TopKeys, columns: u16, lines: u16) -> Vec<String> {
    // It only keeps what is drawn, and cannot fail.
    let Ok(mut terminal) = Terminal::new(TestBackend::new(columns, lines));
    let Ok(_) = terminal.draw(|frame| screen::draw(frame, figures, keys));
    let buffer = terminal.backend().buffer();
    let cells = buffer.content().chunks(usize::from(columns));
    let line = |cells: &[ratatui::buffer::Cell]| {
        // A character of two columns is in the first of them, and the second one is to be left out.
        let mut text = String::new();
        let mut hidden = 0;
        for cell in cells {
            if hidden > 0 {
                hidden -= 1;
                continue;
            }
            text.push_str(cell.symbol());
            hidden = unicode_width::UnicodeWidthStr::width(cell.symbol()).saturating_sub(1);
        }
        text.trim_end().to_owned()
    };
    let mut shown: Vec<String> = cells.map(line).collect();
    shown.truncate(shown.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1));
    shown
}

/// What is asked next, or why there is nothing.
type TopAnswer = Result<TopSample, AdminCallError>;

fn watch(client: &AdminClient, first: TopSample) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let ended = run(&mut terminal, client, first);
    ratatui::restore();
    ended
}

fn run(terminal: &mut ratatui::DefaultTerminal, client: &AdminClient, first: TopSample) -> io::Result<()> {
    let samples = ask_forever(client.clone());
    let mut keys = TopKeys::default();
    let mut figures = TopFigures::new(None, &first, client.place());
    let mut last = first;
    let mut is_drawn = false;
    loop {
        if !is_drawn {
            terminal.draw(|frame| screen::draw(frame, &figures, &keys))?;
            is_drawn = true;
        }
        if event::poll(KEY_TURN)? {
            // Also the terminal's new size.
            is_drawn = false;
            match press(event::read()?, &mut keys, &figures) {
                KeyAction::Nothing => {}
                KeyAction::Quit => return Ok(()),
                KeyAction::Kick { connection_id, name } => {
                    keys.notice = Some(kick(client, &connection_id, &name))
                }
            }
        }
        let asked = samples.try_recv();
        is_drawn &= matches!(asked, Err(TryRecvError::Empty));
        match asked {
            Ok(Ok(sample)) => {
                figures = TopFigures::new(Some(&last), &sample, client.place());
                last = sample;
                keys.trouble = None;
            }
            // It is shown with what was known last, and asked again.
            Ok(Err(error)) => keys.trouble = Some(one_line(&error.to_string()).into_owned()),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
    }
}

fn press(event: Event, keys: &mut TopKeys, figures: &TopFigures) -> KeyAction {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => keys.press(key, figures),
        _ => KeyAction::Nothing,
    }
}

/// Asks once a second, by a thread that ends when nobody takes its answers any more.
fn ask_forever(client: AdminClient) -> Receiver<TopAnswer> {
    // One may wait: a screen that is behind shows the newest but one, and no more of them are kept.
    let (send, receive) = sync_channel(1);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(REFRESH);
            if send.send(TopSample::ask(&client)).is_err() {
                return;
            }
        }
    });
    receive
}

/// What came of it, in words.
fn kick(client: &AdminClient, connection_id: &str, name: &str) -> String {
    let client = client.clone().within(KICK_DEADLINE);
    let target = format!("/api/v1/sessions/{}{}", escaped(connection_id), query(&[("reason", Some("0x98"))]));
    match client.ask("DELETE", &target, None) {
        Ok(_) => format!("disconnected {name}"),
        Err(AdminCallError::Refused { status: 404, .. }) => format!("{name} has gone already"),
        Err(error) => one_line(&error.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests;
