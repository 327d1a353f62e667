//! Everything that any witness saw in this run, by nonce.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use probe_spec::{Nonce, Sighting, Vantage};
use tokio::sync::Notify;

/// Collects sightings of all witnesses.
pub struct Sightings {
    seen: Mutex<HashMap<Nonce, Vec<Sighting>>>,
    changed: Notify,
    started: Instant,
}

impl Default for Sightings {
    fn default() -> Self {
        Self {
            seen: Mutex::default(),
            changed: Notify::new(),
            started: Instant::now(),
        }
    }
}

/// Most sightings kept of one nonce: a sweep that gets out is seen tens of thousands of times.
const KEPT: usize = 64;

impl Sightings {
    /// Adds one, under every nonce in it.
    pub fn record(&self, sighting: Sighting) {
        let mut seen = self.locked();
        for nonce in &sighting.nonces {
            let all = seen.entry(nonce.clone()).or_default();
            // Another vantage is always worth keeping.
            if all.len() < KEPT || all.iter().all(|one| one.at != sighting.at) {
                all.push(sighting.clone());
            }
        }
        drop(seen);
        self.changed.notify_waiters();
    }

    /// Adds what a witness of this process saw in some bytes, when there are nonces in them.
    pub fn record_bytes(&self, at: Vantage, bytes: &[u8], from: String, to: String, what: &str) {
        let nonces = Nonce::find_all(bytes);
        if !nonces.is_empty() {
            let at_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.record(Sighting {
                at,
                nonces,
                from,
                to,
                what: what.to_owned(),
                at_ms,
            });
        }
    }

    /// What was seen of a nonce so far.
    pub fn of(&self, nonce: &Nonce) -> Vec<Sighting> {
        self.locked().get(nonce).cloned().unwrap_or_default()
    }

    /// Whether the nonce was seen at `at`.
    pub fn has(&self, nonce: &Nonce, at: Vantage) -> bool {
        self.locked()
            .get(nonce)
            .is_some_and(|all| all.iter().any(|one| one.at == at))
    }

    /// Waits until the nonce was seen at `at`; `false` after the limit.
    pub async fn wait(&self, nonce: &Nonce, at: Vantage, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.has(nonce, at) {
                return true;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return self.has(nonce, at);
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Nonce, Vec<Sighting>>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fresh nonce.
pub fn fresh_nonce() -> Nonce {
    Nonce::from_bytes(random())
}

/// Bytes of the kernel's generator.
pub fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // The generator cannot fail once it is seeded; without it nothing here means anything.
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_nonce_is_found_in_any_bytes_and_waited_for() {
        let all = std::sync::Arc::new(Sightings::default());
        let nonce = fresh_nonce();
        let later = (all.clone(), nonce.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let text = format!("GET /{}", later.1);
            later.0.record_bytes(
                Vantage::HostLoopback4,
                text.as_bytes(),
                String::new(),
                String::new(),
                "tcp",
            );
        });
        assert!(all.wait(&nonce, Vantage::HostLoopback4, Duration::from_secs(5)).await);
        assert!(!all.wait(&nonce, Vantage::HostUdp, Duration::from_millis(1)).await);
        assert_eq!(all.of(&nonce).len(), 1);
    }

    #[test]
    fn a_flood_does_not_hide_another_vantage() {
        let all = Sightings::default();
        let nonce = fresh_nonce();
        for _ in 0..1000 {
            all.record_bytes(
                Vantage::InternetTcp,
                nonce.as_str().as_bytes(),
                String::new(),
                String::new(),
                "tcp",
            );
        }
        all.record_bytes(
            Vantage::HostUdp,
            nonce.as_str().as_bytes(),
            String::new(),
            String::new(),
            "udp",
        );
        assert_eq!(all.of(&nonce).len(), KEPT + 1);
        assert!(all.has(&nonce, Vantage::HostUdp));
    }
}
