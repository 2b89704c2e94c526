//! One side of a row: levels of which some are captures. What it captures of a topic or a filter, and what it writes with
//! what the other side has captured.

use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

/// A topic with captures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TopicShape {
    /// Never none, and [`Rest`](ShapeLevel::Rest) never alone.
    levels: Box<[ShapeLevel]>,
    /// How many captures of one level the row has.
    captures: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ShapeLevel {
    /// This text.
    Text(Box<str>),
    /// Any text, known by this number at both sides.
    Capture(u8),
    /// All levels that follow, perhaps none: as `#`. Always last.
    Rest,
}

/// What was captured: of a topic the levels, of a filter which levels are meant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Captured<'t> {
    levels: SmallVec<[&'t str; 8]>,
    /// `None`: no level follows.
    rest: Option<&'t str>,
}

/// What a filter has in common with a shape.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FilterFit<'t> {
    /// No topic.
    Apart,
    /// All that it matches.
    Inside(Captured<'t>),
    /// A part of what it matches, in which the captures are these.
    Partly(Captured<'t>),
}

impl TopicShape {
    pub(super) fn new(levels: Vec<ShapeLevel>) -> Self {
        let is_capture = |level: &&ShapeLevel| matches!(level, ShapeLevel::Capture(_));
        let captures = levels.iter().filter(is_capture).count();
        Self { captures: u8::try_from(captures).unwrap_or(u8::MAX), levels: levels.into() }
    }

    /// The captures of a topic that is as this says.
    pub(super) fn capture<'t>(&self, topic: &'t str) -> Option<Captured<'t>> {
        let mut captured = Captured { levels: smallvec![""; usize::from(self.captures)], rest: None };
        let mut left = Some(topic);
        for level in &self.levels {
            if let ShapeLevel::Rest = level {
                captured.rest = left;
                return Some(captured);
            }
            let (text, others) = split_level(left?);
            left = others;
            match level {
                ShapeLevel::Text(own) if **own == *text => {}
                ShapeLevel::Capture(number) => captured.set(*number, text),
                ShapeLevel::Text(_) | ShapeLevel::Rest => return None,
            }
        }
        left.is_none().then_some(captured)
    }

    /// What a filter that is no shared one, and does not begin with `$`, has in common with it.
    pub(super) fn fit<'t>(&self, filter: &'t str) -> FilterFit<'t> {
        // Where nothing else is said, all that a level can be, and all that can follow.
        let rest = matches!(self.levels.last(), Some(ShapeLevel::Rest)).then_some("#");
        let mut captured = Captured { levels: smallvec!["+"; usize::from(self.captures)], rest };
        let (mut left, mut is_inside) = (Some(filter), true);
        for level in &self.levels {
            if let ShapeLevel::Rest = level {
                captured.rest = left;
                left = None;
                break;
            }
            let Some((text, others)) = left.map(split_level) else { return FilterFit::Apart };
            left = others;
            match (level, text) {
                // It covers this level and all behind it; and the topic that ends before, which is none of these (4.7.1.2).
                (_, "#") => return FilterFit::Partly(captured),
                (ShapeLevel::Capture(number), text) => captured.set(*number, text),
                (ShapeLevel::Text(_), "+") => is_inside = false,
                (ShapeLevel::Text(own), text) if **own == *text => {}
                (ShapeLevel::Text(_) | ShapeLevel::Rest, _) => return FilterFit::Apart,
            }
        }
        match left {
            None if is_inside => FilterFit::Inside(captured),
            // `a/#` has its parent `a`, too.
            None | Some("#") => FilterFit::Partly(captured),
            Some(_) => FilterFit::Apart,
        }
    }

    /// The text with these captures. `None`: that would be nothing at all, or would begin with `$` and pass for one of the
    /// broker's own.
    pub(super) fn fill(&self, captured: &Captured<'_>) -> Option<String> {
        let mut text = String::new();
        for (at, level) in self.levels.iter().enumerate() {
            let own: &str = match level {
                ShapeLevel::Text(own) => own,
                ShapeLevel::Capture(number) => captured.levels.get(usize::from(*number))?,
                ShapeLevel::Rest => match captured.rest {
                    Some(rest) => rest,
                    None => continue,
                },
            };
            if at > 0 {
                text.push('/');
            }
            text.push_str(own);
        }
        (!text.is_empty() && !text.starts_with('$')).then_some(text)
    }
}

impl<'t> Captured<'t> {
    fn set(&mut self, number: u8, text: &'t str) {
        if let Some(own) = self.levels.get_mut(usize::from(number)) {
            *own = text;
        }
    }
}

/// The first level, and what follows it.
fn split_level(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((level, others)) => (level, Some(others)),
        None => (text, None),
    }
}
