//! The file that keeps bans over a restart: JSON, written whole to another file that then takes its place. So it is always
//! the one or the other, whatever happens meanwhile, and a full disk leaves the old one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Ban, BanTarget, MOST_BANS};
use crate::timestamp::Timestamp;

/// Far more than the most bans there may be come to.
const LARGEST: u64 = 64 << 20;

/// The version that this mproxy writes, and the only one that it reads.
const VERSION: u32 = 1;

/// Where bans are kept.
#[derive(Debug)]
pub(crate) struct BansFile(PathBuf);

/// Why bans could not be read.
#[derive(Debug, Error)]
pub(crate) enum UnreadableBans {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("its folder is not there")]
    NoFolder,
    #[error("is no list of bans: {0}")]
    Json(#[from] serde_json::Error),
    #[error("is of version {0}, and this mproxy reads version {VERSION}")]
    Version(u32),
    #[error("ban {0}: {1}")]
    Ban(usize, String),
    #[error("has more than {MOST_BANS} bans")]
    TooMany,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileContent<B> {
    version: u32,
    bans: Vec<B>,
}

/// For a format that this mproxy does not know, whatever else stands there.
#[derive(Deserialize)]
struct FileFormat {
    version: u32,
}

/// Which file stands there: each change makes another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileVersion {
    inode: u64,
    changed: (i64, i64),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileBan {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

impl From<&Ban> for FileBan {
    fn from(ban: &Ban) -> Self {
        let moment = |at: SystemTime| Timestamp(at).to_string();
        let [client_id, username, address] = ban.target.names();
        let (since, expires) = (moment(ban.since), ban.expires.map(moment));
        Self { client_id, username, address, reason: ban.reason.clone(), since, expires }
    }
}

impl FileBan {
    fn read(self) -> Result<Ban, String> {
        let target = BanTarget::named(self.client_id, self.username, self.address);
        let target = target.map_err(|error| error.to_string())?;
        let moment = |text: &str| Timestamp::parse(text).map(|Timestamp(at)| at);
        Ok(Ban {
            target,
            reason: self.reason,
            since: moment(&self.since).ok_or("since is no moment")?,
            expires: match self.expires {
                // Not for ever: that would be another ban than was meant.
                Some(text) => Some(moment(&text).ok_or("expires is no moment")?),
                None => None,
            },
        })
    }
}

impl BansFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Which one is there now, if any.
    pub(crate) fn version(&self) -> Option<FileVersion> {
        let about = std::fs::metadata(&self.0).ok()?;
        Some(FileVersion { inode: about.ino(), changed: (about.mtime(), about.mtime_nsec()) })
    }

    /// What it holds. A file that is not there holds nothing: it is made with the first ban.
    pub(crate) fn read(&self) -> Result<Vec<Ban>, UnreadableBans> {
        let text = match std::fs::metadata(&self.0) {
            Ok(about) if !about.is_file() || about.len() > LARGEST => {
                return Err(io::Error::from(io::ErrorKind::InvalidData).into());
            }
            Ok(_) => std::fs::read_to_string(&self.0)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if self.folder().is_dir() { Ok(Vec::new()) } else { Err(UnreadableBans::NoFolder) };
            }
            Err(error) => return Err(error.into()),
        };
        let FileFormat { version } = serde_json::from_str(&text)?;
        if version != VERSION {
            return Err(UnreadableBans::Version(version));
        }
        let content: FileContent<FileBan> = serde_json::from_str(&text)?;
        if content.bans.len() > MOST_BANS {
            return Err(UnreadableBans::TooMany);
        }
        let read = |(at, ban): (usize, FileBan)| ban.read().map_err(|why| UnreadableBans::Ban(at + 1, why));
        content.bans.into_iter().enumerate().map(read).collect()
    }

    /// Writes these. Blocks until they are on the disk.
    pub(crate) fn write(&self, bans: &[Ban]) -> io::Result<()> {
        let content = FileContent { version: VERSION, bans: bans.iter().map(FileBan::from).collect() };
        let mut text = serde_json::to_vec_pretty(&content)?;
        text.push(b'\n');
        let beside = self.beside();
        let written = replace(&beside, &text).and_then(|()| std::fs::rename(&beside, &self.0));
        if written.is_err() {
            // It would take room that the next try needs.
            let _ = std::fs::remove_file(&beside);
            return written;
        }
        // The new name, too, has to outlive a power cut.
        File::open(self.folder())?.sync_all()
    }

    fn folder(&self) -> &Path {
        let parent = self.0.parent().filter(|parent| !parent.as_os_str().is_empty());
        parent.unwrap_or_else(|| Path::new("."))
    }

    fn beside(&self) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(".new");
        name.into()
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    // User names and addresses are nobody else's business.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use mproxy_testkit::certificates::Folder;

    use super::*;

    fn bans() -> Vec<Ban> {
        let since = UNIX_EPOCH + Duration::from_millis(1_795_481_445_678);
        let ban = |target, expires| Ban { target, reason: Some("too \"loud\"\n".to_owned()), since, expires };
        vec![
            ban(BanTarget::ClientId("a/b é".to_owned()), None),
            ban(BanTarget::Username(String::new()), Some(since + Duration::from_secs(60))),
            Ban { reason: None, ..ban(BanTarget::Network("10.0.0.0/8".parse().expect("a network")), None) },
        ]
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = Folder::default();
        let file = BansFile::new(&folder.file("bans.json"));
        assert_eq!(file.read().expect("nothing yet"), []);
        file.write(&bans()).expect("a folder to write to");
        assert_eq!(file.read().expect("what was written"), bans());
        file.write(&[]).expect("again");
        assert_eq!(file.read().expect("what was written"), []);
        assert!(!file.beside().exists());
    }

    #[test]
    fn a_disk_that_takes_nothing_leaves_what_was_there() {
        let folder = Folder::default();
        let file = BansFile::new(&folder.file("bans.json"));
        file.write(&bans()).expect("a folder to write to");
        // In the way of the file that would take its place.
        std::fs::create_dir(file.beside()).expect("a folder");
        assert!(file.write(&[]).is_err());
        assert_eq!(file.read().expect("the old ones"), bans());
    }

    #[test]
    fn what_is_no_list_of_bans_is_none() {
        let folder = Folder::default();
        for (text, why) in [
            ("", "is no list of bans"),
            ("{\"version\":1}", "missing field `bans`"),
            ("{\"version\":2,\"prohibitions\":[]}", "is of version 2"),
            ("{\"version\":1,\"bans\":[{\"since\":\"2026-11-24T00:50:45Z\"}]}", "ban 1: exactly one of"),
            ("{\"version\":1,\"bans\":[{\"client_id\":\"a\",\"since\":\"now\"}]}", "since is no moment"),
            ("{\"version\":1,\"bans\":[{\"client_id\":\"a\",\"until\":\"now\"}]}", "unknown field `until`"),
            (
                "{\"version\":1,\"bans\":[{\"address\":\"x\",\"since\":\"2026-11-24T00:50:45Z\"}]}",
                "ban 1: address: ",
            ),
        ] {
            let error = BansFile::new(&folder.write("bans.json", text)).read().expect_err(text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let nowhere = BansFile::new(&folder.file("nowhere/bans.json")).read().expect_err("no folder");
        assert_eq!(nowhere.to_string(), "its folder is not there");
    }
}
