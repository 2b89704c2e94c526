//! Tells what was measured: a line while it runs, tables in Markdown, a picture of the ratios.

mod plot;
mod spread;
mod table;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};

pub(crate) use self::table::{line, markdown};
use crate::sample::Results;

/// What encloses the table in README.md.
const BEGIN: &str = "<!-- results: written by `mproxy-bench report` -->";
const END: &str = "<!-- end of results -->";

/// The table and the picture of these results.
pub(crate) fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    fs::write(folder.join("table.md"), markdown(results)).context("the table cannot be written")?;
    fs::write(folder.join("ratios.svg"), plot::svg(results)).context("the picture cannot be written")
}

/// Puts the results of a folder between the markers of a file.
pub(crate) fn into_readme(from: &Path, readme: &Path) -> anyhow::Result<()> {
    let results = Results::read(from)?;
    write(&results, from)?;
    let text = fs::read_to_string(readme).with_context(|| format!("{} cannot be read", readme.display()))?;
    let Some((before, (_, after))) =
        text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?)))
    else {
        bail!("{} has no place for results between {BEGIN} and {END}", readme.display());
    };
    let picture =
        readme.parent().and_then(|folder| from.strip_prefix(folder).ok()).unwrap_or(from).join("ratios.svg");
    let table = markdown(&results);
    let text = format!(
        "{before}{BEGIN}\n\n![Ratios of CPU and memory]({})\n\n{table}\n{END}{after}",
        picture.display()
    );
    fs::write(readme, text).with_context(|| format!("{} cannot be written", readme.display()))
}
