//! How many connections there may be, in all and of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::{Proxies, sender};
use crate::telemetry::metrics::{HTTP_CONNECTIONS_CLOSED, Metrics};

/// Why the service closed a connection of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// No request for too long.
    Idle,
    /// A request's head, or the first one, took too long.
    Head,
    /// The client does not take its answer.
    Unread,
    /// No TLS, or none in time.
    Handshake,
    /// Its address has enough already.
    Address,
}

impl Closed {
    const ALL: [(Closed, &str); 5] = [
        (Closed::Idle, "idle"),
        (Closed::Head, "slow_head"),
        (Closed::Unread, "slow_reader"),
        (Closed::Handshake, "handshake"),
        (Closed::Address, "address_limit"),
    ];

    pub(super) const fn name(self) -> &'static str {
        let (_, name) = Self::ALL[self as usize];
        name
    }
}

/// The connections that are open; cheap to clone.
#[derive(Clone)]
pub struct Connections(Arc<Inner>);

struct Inner {
    places: Arc<Semaphore>,
    limit: usize,
    limit_per_address: Option<PerAddress>,
    by_address: Mutex<HashMap<IpAddr, usize, foldhash::fast::RandomState>>,
    closed: [prometheus::IntCounter; Closed::ALL.len()],
}

/// How many connections one address may have.
#[derive(Debug, Clone)]
pub struct PerAddress {
    /// The limit; an IPv6 network of 64 bits counts as one address.
    pub limit: usize,
    /// Whether this machine itself is limited, too.
    pub includes_loopback: bool,
    /// Whose connections are not counted: they bring many clients.
    pub proxies: Arc<Proxies>,
}

/// A place that is taken until this is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    counted: Option<(Connections, IpAddr)>,
}

impl Connections {
    /// None yet, and no more than `limit` at once.
    pub fn new(limit: usize, per_address: Option<PerAddress>, metrics: &Metrics) -> Self {
        let closed = metrics.counter(&HTTP_CONNECTIONS_CLOSED);
        Self(Arc::new(Inner {
            places: Arc::new(Semaphore::new(limit)),
            limit,
            limit_per_address: per_address,
            by_address: Mutex::default(),
            closed: Closed::ALL.map(|(_, name)| closed.with_label_values(&[name])),
        }))
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.limit()
            .saturating_sub(self.0.places.available_permits())
    }

    /// How many may be.
    pub fn limit(&self) -> usize {
        self.0.limit
    }

    pub(super) fn count(&self, reason: Closed) {
        self.0.closed[reason as usize].inc();
    }

    /// Waits until there is a place for anybody.
    pub(super) async fn free(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.0.places).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives the place to `address`, unless it has enough.
    pub(super) fn take(&self, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let counted = match &self.0.limit_per_address {
            Some(per_address) if per_address.counts(address.to_canonical()) => {
                let address = sender(address);
                let mut by_address = self.by_address();
                let open = by_address.entry(address).or_default();
                // Whoever is refused has an entry already: the table is no larger than the service.
                if *open >= per_address.limit {
                    return None;
                }
                *open += 1;
                Some((self.clone(), address))
            }
            _ => None,
        };
        Some(Place {
            _permit: permit,
            counted,
        })
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, usize, foldhash::fast::RandomState>> {
        let table = &self.0.by_address;
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PerAddress {
    fn counts(&self, address: IpAddr) -> bool {
        (self.includes_loopback || !address.is_loopback()) && !self.proxies.trust(address)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((connections, address)) = &self.counted {
            let mut by_address = connections.by_address();
            if let Some(open) = by_address.get_mut(address) {
                *open -= 1;
                if *open == 0 {
                    by_address.remove(address);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(limit: usize, includes_loopback: bool) -> Connections {
        let proxies = Proxies::within(vec!["10.0.0.0/8".parse().unwrap()]);
        let per_address = PerAddress {
            limit,
            includes_loopback,
            proxies: Arc::new(proxies),
        };
        Connections::new(100, Some(per_address), &Metrics::default())
    }

    async fn take(connections: &Connections, address: &str) -> Option<Place> {
        let permit = connections.free().await;
        connections.take(permit, address.parse().unwrap())
    }

    #[tokio::test]
    async fn one_address_has_so_many_places_and_leaves_the_others_theirs() {
        let connections = connections(2, false);
        let first = take(&connections, "192.0.2.1").await.unwrap();
        let _second = take(&connections, "::ffff:192.0.2.1").await.unwrap();
        assert!(take(&connections, "192.0.2.1").await.is_none());
        let _other = take(&connections, "192.0.2.2").await.unwrap();
        assert_eq!(connections.open(), 3);
        drop(first);
        let _again = take(&connections, "192.0.2.1").await.unwrap();
        assert!(take(&connections, "192.0.2.1").await.is_none());

        // A host chooses its addresses within its network.
        let _v6 = take(&connections, "2001:db8::1").await.unwrap();
        let _v6 = take(&connections, "2001:db8::2").await.unwrap();
        assert!(take(&connections, "2001:db8::3").await.is_none());
    }

    #[tokio::test]
    async fn proxies_are_not_counted_and_loopback_only_if_asked_for() {
        let (without, with) = (connections(1, false), connections(1, true));
        for address in ["10.1.2.3", "::ffff:10.1.2.3"] {
            let _first = take(&with, address).await.unwrap();
            assert!(take(&with, address).await.is_some(), "{address}");
        }
        for address in ["127.0.0.1", "::1"] {
            let _first = take(&without, address).await.unwrap();
            assert!(take(&without, address).await.is_some(), "{address}");
            let _first = take(&with, address).await.unwrap();
            assert!(take(&with, address).await.is_none(), "{address}");
        }
    }

    #[tokio::test]
    async fn the_table_holds_open_connections_only() {
        let connections = connections(1, true);
        for last in 0..50 {
            let place = take(&connections, &format!("192.0.2.{last}")).await;
            assert_eq!(connections.by_address().len(), 1);
            drop(place);
        }
        assert!(connections.by_address().is_empty());
        assert_eq!(connections.open(), 0);
    }
}
