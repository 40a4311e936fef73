//! The data folder: who may open it, who holds it, and the configuration that is written into it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::EmbeddedError;

/// Longest path of a socket in bytes: `sun_path` is 104 bytes on macOS and 108 on Linux, with a final NUL.
const SOCKET_PATH_MAX: usize = 103;

/// The log is moved aside at a start when it has grown past this.
const LOG_MAX: u64 = 4 * 1024 * 1024;

/// `maxmemory` when the machine does not say how much it has.
const MEMORY_FALLBACK: u64 = 1024 * 1024 * 1024;

/// The folder of one embedded Redis.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// The data directory, absolute, without links.
    root: PathBuf,
}

/// The hold on a folder; it ends with the value, or with the process however that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

// === impl Folder ===

impl Folder {
    /// Makes the directories where they are missing, for this user only.
    pub(super) fn create(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let private = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        private(data_dir).map_err(at(data_dir))?;
        let root = data_dir.canonicalize().map_err(at(data_dir))?;
        let folder = Self { root };
        let redis = folder.redis();
        private(&redis).map_err(at(&redis))?;
        // An older directory may have been made with wider permissions.
        fs::set_permissions(&redis, Permissions::from_mode(0o700)).map_err(at(&redis))?;
        Ok(folder)
    }

    /// A folder that is already there.
    pub(super) fn existing(data_dir: &Path) -> Option<Self> {
        Some(Self { root: data_dir.canonicalize().ok()? })
    }

    /// Holds the folder for this process.
    pub(super) fn lock(&self) -> Result<Lock, EmbeddedError> {
        let path = self.root.join("postrider.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid).map_err(at(&path))?;
                let pid = pid.trim().to_owned();
                return Err(EmbeddedError::InUse { path: self.root.clone(), pid });
            }
            Err(TryLockError::Error(cause)) => return Err(EmbeddedError::Folder { path, cause }),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(at(&path))?;
        Ok(Lock { _file: file })
    }

    /// The server's working directory.
    pub(super) fn redis(&self) -> PathBuf {
        self.root.join("redis")
    }

    /// The server's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.redis().join("redis.sock")
    }

    /// The server's log.
    pub(super) fn log(&self) -> PathBuf {
        self.redis().join("redis.log")
    }

    /// The socket as a URL.
    pub(super) fn url(&self) -> Result<String, EmbeddedError> {
        let path = self.socket();
        let length = path.as_os_str().len();
        let too_long = || EmbeddedError::PathTooLong { path: path.clone(), length, max: SOCKET_PATH_MAX };
        if length > SOCKET_PATH_MAX {
            return Err(too_long());
        }
        // A file URL escapes what a path may hold and a URL may not; the path is absolute, so there is one.
        let url = url::Url::from_file_path(&path).map_err(|()| too_long())?;
        Ok(format!("unix{}", url.as_str().trim_start_matches("file")))
    }

    /// Writes `redis.conf` and gives its path. All paths in it are relative to the server's directory, which
    /// is where it is started: nothing has to be quoted.
    pub(super) fn write_configuration(&self, port: Option<u16>) -> Result<PathBuf, EmbeddedError> {
        let path = self.redis().join("redis.conf");
        let text = configuration(port, memory_of_this_machine() / 2);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(at(&path))?;
        Ok(path)
    }

    /// The log, opened at its end; a long one is moved aside first.
    pub(super) fn open_log(&self) -> Result<File, EmbeddedError> {
        let path = self.log();
        if fs::metadata(&path).is_ok_and(|log| log.len() > LOG_MAX) {
            fs::rename(&path, self.redis().join("redis.log.1")).map_err(at(&path))?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(at(&path))
    }

    /// The last lines of the log that this start wrote, for an error.
    pub(super) fn log_tail(&self, from: u64) -> String {
        let bytes = fs::read(self.log()).unwrap_or_default();
        let new = bytes.get(usize::try_from(from).unwrap_or(0)..).unwrap_or(&bytes);
        let text = String::from_utf8_lossy(new);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    /// Removes a socket that nobody listens at.
    pub(super) fn remove_socket(&self) -> Result<(), EmbeddedError> {
        let socket = self.socket();
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&socket)(error)),
            _ => Ok(()),
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |cause| EmbeddedError::Folder { path, cause }
}

/// The server's configuration: an append-only file synced each second loses at most that second to a crash of
/// the machine and nothing to one of the process; `noeviction`, for an evicted key would be lost work.
fn configuration(port: Option<u16>, maxmemory: u64) -> String {
    let port = port.unwrap_or(0);
    format!(
        "# Written by postrider at each start; changes are lost.\n\
         daemonize no\n\
         dir .\n\
         logfile \"\"\n\
         unixsocket redis.sock\n\
         unixsocketperm 700\n\
         bind 127.0.0.1\n\
         port {port}\n\
         protected-mode yes\n\
         timeout 0\n\
         appendonly yes\n\
         appendfsync everysec\n\
         save \"\"\n\
         maxmemory {maxmemory}\n\
         maxmemory-policy noeviction\n"
    )
}

/// Bytes of memory of this machine, or of the control group that this process may not outgrow.
fn memory_of_this_machine() -> u64 {
    let machine = if cfg!(target_os = "macos") { sysctl_memsize() } else { meminfo_total() };
    let group =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse::<u64>().ok());
    machine.into_iter().chain(group).min().unwrap_or_else(|| {
        tracing::warn!("this machine does not say how much memory it has; Redis gets 512 MiB");
        MEMORY_FALLBACK
    })
}

fn meminfo_total() -> Option<u64> {
    total_in(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// `MemTotal` of /proc/meminfo (proc(5)), given in KiB.
fn total_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn sysctl_memsize() -> Option<u64> {
    let output = std::process::Command::new("sysctl").args(["-n", "hw.memsize"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_memory_is_read_from_meminfo() {
        assert_eq!(total_in("MemTotal:       16316412 kB\nMemFree: 1 kB\n"), Some(16_316_412 * 1024));
        assert_eq!(total_in("MemFree: 1 kB\n"), None);
        assert!(memory_of_this_machine() > 64 * 1024 * 1024);
    }

    #[test]
    fn a_path_with_spaces_becomes_a_url_and_a_long_one_a_clear_error() {
        let folder = Folder { root: "/tmp/my data".into() };
        assert_eq!(folder.url().unwrap(), "unix:///tmp/my%20data/redis/redis.sock");
        let folder = Folder { root: format!("/tmp/{}", "d".repeat(100)).into() };
        assert!(matches!(folder.url(), Err(EmbeddedError::PathTooLong { length: 122, .. })));
    }
}
