//! How often a key and an address may call, reads and writes apart.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::proxies::sender;
use super::{Buckets, Key, Rate, Taken};

/// Whether a call brings views or asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Its cost is its rows.
    Write,
    /// Its cost is that of the report.
    Read,
}

/// The limits; what is `None` is not limited.
#[derive(Debug, Clone, Copy, Default)]
pub struct LimitSettings {
    /// Rows of one key in a second.
    pub key_writes_per_sec: Option<u32>,
    /// Reports of one key in a second.
    pub key_reads_per_sec: Option<u32>,
    /// Rows of one address in a second.
    pub address_writes_per_sec: Option<u32>,
    /// Reports of one address in a second.
    pub address_reads_per_sec: Option<u32>,
    /// The seconds' worth that a bucket holds.
    pub burst_secs: u32,
    /// Wrong keys of one address in a minute.
    pub failures_per_minute: Option<u32>,
}

/// How a caller stands with a limit.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// The limit's name.
    pub policy: &'static str,
    /// What it allows.
    pub rate: Rate,
    /// What is left of it.
    pub taken: Taken,
}

/// All limits of a service.
pub struct Limits {
    settings: LimitSettings,
    since: Instant,
    keys: [Buckets; 2],
    addresses: [Buckets; 2],
    failures: Buckets,
}

impl Limits {
    /// Nobody has called yet.
    pub fn new(settings: LimitSettings) -> Self {
        Self {
            settings,
            since: Instant::now(),
            keys: Default::default(),
            addresses: Default::default(),
            failures: Buckets::default(),
        }
    }

    /// Whether calls without a key are limited.
    pub const fn limit_addresses(&self) -> bool {
        let settings = &self.settings;
        settings.address_writes_per_sec.is_some() || settings.address_reads_per_sec.is_some()
    }

    fn rate(&self, per_sec: u32) -> Rate {
        let window = Duration::from_secs(self.settings.burst_secs.into());
        Rate::new(per_sec.saturating_mul(self.settings.burst_secs), window)
    }

    /// Takes `cost` from what `key` and `address` may do, and says how the one stands that has less
    /// left; nothing where neither is limited.
    ///
    /// # Errors
    /// The limit that is used up. Nothing was taken from it.
    pub fn charge(
        &self,
        direction: Direction,
        key: Option<&Key>,
        address: IpAddr,
        cost: u32,
    ) -> Result<Option<Standing>, Standing> {
        let settings = &self.settings;
        let (place, of_address, names) = match direction {
            Direction::Write => (
                0,
                settings.address_writes_per_sec,
                ["key-writes", "address-writes"],
            ),
            Direction::Read => (
                1,
                settings.address_reads_per_sec,
                ["key-reads", "address-reads"],
            ),
        };
        let of_key = key.and_then(|key| match direction {
            Direction::Write => key
                .restrictions
                .writes_per_sec
                .or(settings.key_writes_per_sec),
            Direction::Read => key
                .restrictions
                .reads_per_sec
                .or(settings.key_reads_per_sec),
        });
        if of_address.is_none() && of_key.is_none() {
            return Ok(None);
        }
        let now = self.since.elapsed();
        let stand = |policy, rate, taken: Taken| Standing {
            policy,
            rate,
            taken,
        };
        let mut least: Option<Standing> = None;
        if let Some(per_sec) = of_address {
            let rate = self.rate(per_sec);
            let taken = self.addresses[place].take(&sender(address), &rate, cost, now);
            least = Some(stand(names[1], rate, taken).allowed()?);
        }
        if let (Some(per_sec), Some(key)) = (of_key, key) {
            let rate = self.rate(per_sec);
            let taken = self.keys[place].take(&key.id, &rate, cost, now);
            let standing = stand(names[0], rate, taken).allowed()?;
            if least.is_none_or(|least| standing.share() <= least.share()) {
                least = Some(standing);
            }
        }
        Ok(least)
    }

    /// Counts a wrong key.
    ///
    /// # Errors
    /// When the address has sent too many.
    pub fn count_failure(&self, address: IpAddr) -> Result<(), Standing> {
        let Some(per_minute) = self.settings.failures_per_minute else {
            return Ok(());
        };
        let rate = Rate::new(per_minute, Duration::from_secs(60));
        let now = self.since.elapsed();
        let taken = self.failures.take(&sender(address), &rate, 1, now);
        let policy = "wrong-keys";
        Standing {
            policy,
            rate,
            taken,
        }
        .allowed()
        .map(|_| ())
    }
}

impl Standing {
    fn allowed(self) -> Result<Self, Self> {
        if self.taken.is_allowed {
            Ok(self)
        } else {
            Err(self)
        }
    }

    /// How much of it is left, in 2^-32.
    fn share(&self) -> u64 {
        (u64::from(self.taken.remaining) << 32) / u64::from(self.rate.quota())
    }
}
