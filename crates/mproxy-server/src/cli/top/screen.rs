//! How it is drawn. Decides nothing.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState};

use super::super::units;
use super::figures::{DecisionRow, SessionRow, TopFigures};
use super::keys::{KeyMode, TopKeys};

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

pub(super) fn draw(frame: &mut Frame<'_>, figures: &TopFigures, keys: &TopKeys) {
    // Where there is little space, sessions have most of it.
    let panel = (frame.area().height / 4).clamp(3, 9);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(panel),
        Constraint::Min(3),
        Constraint::Length(panel),
        Constraint::Length(1),
    ]);
    let [head, figures_area, sessions, refusals, foot] = areas.areas(frame.area());
    let [decisions, policy] = Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)])
        .spacing(2)
        .areas(figures_area);
    let lines = vec![Line::styled(figures.headline.as_str(), BOLD), Line::raw(figures.rates.as_str())];
    frame.render_widget(Paragraph::new(lines), head);
    draw_decisions(frame, figures, decisions);
    draw_policy(frame, figures, policy);
    draw_sessions(frame, figures, keys, sessions);
    let lines: Vec<Line<'_>> = figures.refusals.iter().map(|line| Line::raw(line.as_str())).collect();
    let empty = vec![Line::raw("none on record")];
    let lines = if lines.is_empty() { empty } else { lines };
    frame.render_widget(Paragraph::new(lines).block(titled("Refusals, the newest first")), refusals);
    frame.render_widget(Paragraph::new(foot_line(keys)), foot);
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

fn draw_sessions(frame: &mut Frame<'_>, figures: &TopFigures, keys: &TopKeys, area: Rect) {
    let rows = keys.rows(figures);
    // Of thousands only those that have their place are made: the title and the header take two lines.
    let (place, chosen) = (usize::from(area.height.saturating_sub(2)), keys.chosen_at(&rows));
    let offset = chosen.map_or(0, |at| (at + 1).saturating_sub(place));
    let number = |value: String| Cell::new(Line::raw(value).right_aligned());
    let row = |row: &&SessionRow| {
        // What is still: not in the way of what is not.
        let is_still = row.packets == 0.0;
        let style = if is_still { Style::new().add_modifier(Modifier::DIM) } else { Style::new() };
        Row::new([
            Cell::new(row.name.clone()),
            Cell::new(row.username.clone()),
            Cell::new(row.listener.clone()),
            Cell::new(row.from.clone()),
            Cell::new(row.phase.clone()),
            number(row.age.clone()),
            number(units::number(row.packets)),
            number(units::bytes(row.client_bytes.round() as u64)),
            number(units::bytes(row.broker_bytes.round() as u64)),
        ])
        .style(style)
    };
    let heads = ["CLIENT", "USER", "LISTENER", "FROM", "STATE", "AGE", "PACKETS/S", "SENT/S", "RECEIVED/S"];
    let header = Row::new(heads.iter().enumerate().map(|(at, head)| {
        let line = Line::raw(*head);
        Cell::new(if at < 5 { line } else { line.right_aligned() })
    }));
    let widths = [
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Max(10),
        Constraint::Fill(3),
        Constraint::Length(10),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(10),
    ];
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
