//! A manual page. `clap_mangen` makes what follows from flags; what stands behind them in the help is set here, since there
//! it would run into one paragraph.

use std::fmt::Write as _;
use std::io;

/// A page, and the name of its file.
#[derive(Debug)]
pub(super) struct ManPage {
    pub(super) file: String,
    pub(super) text: String,
}

/// The page of a command that is built.
///
/// # Errors
/// None: a page is made in memory.
pub(super) fn page(command: &clap::Command) -> io::Result<ManPage> {
    let man = clap_mangen::Man::new(command.clone());
    let mut made = Vec::new();
    man.render(&mut made)?;
    let made = String::from_utf8_lossy(&made);
    let end = [".SH EXTRA\n", ".SH VERSION\n"].iter().filter_map(|head| made.find(head)).min();
    let mut text = String::new();
    for line in made[..end.unwrap_or(made.len())].lines() {
        text.push_str(line);
        // At the left, and no word is broken: names of flags and variables are to be found.
        text.push_str(if line.starts_with(".TH ") { "\n.ad l\n.nh\n" } else { "\n" });
    }
    if let Some(help) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        text.push_str(&sections(&help.to_string()));
    }
    if let Some(version) = command.get_long_version().or_else(|| command.get_version()) {
        text.push_str(".SH VERSION\n");
        for line in version.lines() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{}\n.br", escaped(line));
        }
    }
    Ok(ManPage { file: man.get_filename(), text: everywhere(&text) })
}

/// Help behind the flags: `Exit codes:` is a heading, two spaces begin an entry of a list, and the rest is paragraphs.
fn sections(help: &str) -> String {
    let mut text = String::new();
    let mut begun = false;
    for line in help.lines() {
        // Writing to a String cannot fail.
        let _ = match (line.strip_prefix("  "), line.strip_suffix(':')) {
            (Some(entry), _) => {
                let (name, about) =
                    entry.split_once("  ").or_else(|| entry.split_once(' ')).unwrap_or((entry, ""));
                writeln!(text, ".TP\n\\fB{}\\fR\n{}", escaped(name), escaped(about.trim_start()))
            }
            (None, Some(heading)) => {
                let (heading, about) = heading.split_once(" (").unwrap_or((heading, ""));
                let about = about.trim_end_matches(')');
                let about =
                    if about.is_empty() { String::new() } else { format!("{}.\n", escaped(&upper(about))) };
                write!(text, ".SH {}\n{about}", heading.to_uppercase())
            }
            (None, None) if line.is_empty() => {
                begun = false;
                Ok(())
            }
            (None, None) => {
                let head = if begun { "" } else { ".PP\n" };
                begun = true;
                writeln!(text, "{head}{}", escaped(line))
            }
        };
    }
    text
}

/// As the beginning of a sentence.
fn upper(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().into_iter().flat_map(char::to_uppercase).chain(rest.as_str().chars()).collect()
}

/// A text in which nothing is a command, and a dash is one that can be copied.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// What holds in all of a page: it is ASCII, and a list without spaces may be broken behind its commas and bars.
fn everywhere(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, characters.peek()) {
            (',' | '|', Some(next)) if !next.is_whitespace() => {
                made.push(c);
                made.push_str("\\:");
            }
            (c, _) if c.is_ascii() => made.push(c),
            // Writing to a String cannot fail.
            (c, _) => drop(write!(made, "\\[u{:04X}]", u32::from(c))),
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_the_flags_is_set_as_lists() {
        let help = "Exit codes:\n  0  it's done\n  1  .not\n\nVariables (a, b):\n  LONG_NAME Of it\n  up, down   choose\n\nThe\nend.";
        let told = ".SH EXIT CODES\n.TP\n\\fB0\\fR\nit\\(aqs done\n.TP\n\\fB1\\fR\n\\&.not\n.SH VARIABLES\nA, b.\n.TP\n\\fBLONG_NAME\\fR\n\
                    Of it\n.TP\n\\fBup, down\\fR\nchoose\n.PP\nThe\nend.\n";
        assert_eq!(sections(help), told);
        assert_eq!(everywhere("…x,y|z, |"), "\\[u2026]x,\\:y|\\:z, |");
    }
}
