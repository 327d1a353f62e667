//! What listening guests print.

use std::sync::Arc;

use bottle_backend::Streams;
use probe_spec::Vantage;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinHandle;

use crate::sightings::Sightings;

/// Reads the sightings that a listening guest prints, as seen at `at`.
pub fn hear_listener(streams: Streams, at: Vantage, sightings: Arc<Sightings>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let Streams {
            stdin: _stdin,
            stdout,
            stderr: _stderr,
        } = streams;
        let mut lines = BufReader::new(stdout).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str::<probe_spec::Sighting>(&line) {
                Ok(mut sighting) => {
                    sighting.at = at;
                    sightings.record(sighting);
                }
                // Whatever it is, a nonce in it was seen there.
                Err(_) => sightings.record_bytes(at, line.as_bytes(), String::new(), String::new(), "listener"),
            }
        }
    })
}
