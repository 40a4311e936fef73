//! Watches the server and starts it again when it dies, until it is told to hand it over.

use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::folder::Folder;
use super::server::Server;

/// First pause before a restart; doubled each time, up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause between two restarts.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A server that ran this long was sound: the next restart is made without delay again.
const SOUND_AFTER: Duration = Duration::from_secs(30);

/// Runs until `stopped`, then gives the server back, alive or not, for its end.
pub(super) async fn run(
    mut server: Server,
    folder: Folder,
    port: Option<u16>,
    pid: watch::Sender<u32>,
    mut stopped: oneshot::Receiver<()>,
) -> Server {
    let mut pause = PAUSE_MIN;
    let mut since = Instant::now();
    loop {
        tokio::select! {
            biased;
            // An error means that the owner was dropped: the server is left running, as after a crash.
            _ = &mut stopped => return server,
            how = server.ended() => {
                tracing::error!(pid = server.pid(), how, "redis-server ended; starting it again");
            }
        }
        if since.elapsed() > SOUND_AFTER {
            pause = PAUSE_MIN;
        }
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return server,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
            match Server::obtain(&folder, port, false).await {
                Ok(again) => {
                    server = again;
                    since = Instant::now();
                    pid.send_replace(server.pid());
                    break;
                }
                Err(error) => tracing::error!(%error, "restarting redis-server failed; trying again"),
            }
        }
    }
}
