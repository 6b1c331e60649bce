//! Which things wait in the spool: identity -> newest file, in bounded memory.
//!
//! Purpose: let a reader find a record that was acknowledged but has not reached the store.
//!
//! Invariants: `No` is said only of an identity that is in no file; `Yes` names the newest file that
//! has it. Whatever would make either of them a guess (no room left, files removed out of order, a
//! table that could not be read) turns the answer into `Unknown` until the spool is empty again.
//!
//! Refuses to know: files, locks.

use std::collections::HashMap;

use super::Name;

/// Whether a record about a thing waits in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// In this file, the newest that has it.
    Yes(Name),
    /// In none.
    No,
    /// It may or may not.
    Unknown,
}

/// The slot of an identity whose newest file is gone while an older one remains.
const NO_SLOT: u32 = u32::MAX;

struct Entry {
    /// The newest file that has the identity.
    slot: u32,
    /// How many records in the spool are about it.
    records: u32,
}

struct Slot {
    name: Name,
    /// How many entries point here; without any it is free.
    entries: u32,
}

/// The index. Names are kept once per file rather than once per entry: four bytes instead of 32.
pub(super) struct Waiting {
    capacity: usize,
    entries: HashMap<u64, Entry>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    complete: bool,
    /// The newest file whose records are not in here: what is known of older ones may be outdated.
    unread: Option<Name>,
}

impl Waiting {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            // A slot has at least one entry, so slots are numbered below the capacity.
            capacity: capacity.min(NO_SLOT as usize - 1),
            entries: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            complete: true,
            unread: None,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.entries.len() < self.capacity
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are files whose records are not in here, none newer than `newest`.
    pub(super) fn leave_out(&mut self, newest: Name) {
        self.complete = false;
        self.unread = self.unread.max(Some(newest));
    }

    /// The spool is empty.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    pub(super) fn holds(&self, identity: u64) -> Held {
        match self.entries.get(&identity) {
            Some(entry) => match self.slots.get(entry.slot as usize) {
                Some(slot) if Some(slot.name) > self.unread => Held::Yes(slot.name),
                _ => Held::Unknown,
            },
            None if self.complete => Held::No,
            None => Held::Unknown,
        }
    }

    /// A file has come, with records about these identities (repetitions included).
    pub(super) fn note(&mut self, name: Name, identities: impl Iterator<Item = u64>) {
        let mut own = None;
        for identity in identities {
            if let Some(entry) = self.entries.get_mut(&identity) {
                entry.records = entry.records.saturating_add(1);
                let before = entry.slot;
                let known = self.slots.get(before as usize).map(|slot| slot.name);
                if known.is_none_or(|known| known < name) {
                    let slot =
                        *own.get_or_insert_with(|| claim(&mut self.slots, &mut self.free, name));
                    entry.slot = slot;
                    self.slots[slot as usize].entries += 1;
                    self.release(before);
                }
            } else if self.has_room() {
                let slot = *own.get_or_insert_with(|| claim(&mut self.slots, &mut self.free, name));
                self.entries.insert(identity, Entry { slot, records: 1 });
                self.slots[slot as usize].entries += 1;
            } else {
                self.complete = false;
            }
        }
    }

    /// A file has gone, with records about these identities; `None` where its table can't be read.
    pub(super) fn forget(&mut self, name: Name, identities: Option<impl Iterator<Item = u64>>) {
        let Some(identities) = identities else {
            self.complete = false;
            return self.detach_all(name);
        };
        for identity in identities {
            let Some(entry) = self.entries.get_mut(&identity) else {
                continue;
            };
            entry.records -= 1;
            let (slot, last) = (entry.slot, entry.records == 0);
            let own = self
                .slots
                .get(slot as usize)
                .is_some_and(|s| s.name == name);
            if own && !last {
                entry.slot = NO_SLOT;
            }
            if last {
                self.entries.remove(&identity);
            }
            if own || last {
                self.release(slot);
            }
        }
    }

    /// Rare, so it may look at everything.
    fn detach_all(&mut self, name: Name) {
        for entry in self.entries.values_mut() {
            if let Some(slot) = self.slots.get_mut(entry.slot as usize)
                && slot.name == name
                && slot.entries > 0
            {
                slot.entries -= 1;
                if slot.entries == 0 {
                    self.free.push(entry.slot);
                }
                entry.slot = NO_SLOT;
            }
        }
    }

    fn release(&mut self, slot: u32) {
        if let Some(released) = self.slots.get_mut(slot as usize) {
            released.entries -= 1;
            if released.entries == 0 {
                self.free.push(slot);
            }
        }
    }
}

fn claim(slots: &mut Vec<Slot>, free: &mut Vec<u32>, name: Name) -> u32 {
    let slot = Slot { name, entries: 0 };
    if let Some(index) = free.pop() {
        slots[index as usize] = slot;
        return index;
    }
    slots.push(slot);
    u32::try_from(slots.len() - 1).unwrap_or(NO_SLOT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn names(count: usize) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        for _ in 0..count {
            names.push(Name::following(names.last().copied(), 0, Uuid::nil()));
        }
        names
    }

    proptest! {
        /// Against a model that keeps everything: never a wrong `No`, never a file that is not the
        /// newest; exact as long as there was room and files went oldest first.
        #[test]
        fn it_never_guesses(
            steps in prop::collection::vec((0..6u8, prop::collection::vec(0..6u64, 1..5), any::<prop::sample::Index>()), 1..60),
            capacity in 0..8usize,
        ) {
            let mut names = names(steps.len()).into_iter();
            let mut waiting = Waiting::new(capacity);
            let mut model: BTreeMap<Name, Vec<u64>> = BTreeMap::new();
            let mut orderly = true;
            for (kind, identities, pick) in steps {
                if kind < 3 || model.is_empty() {
                    let name = names.next().unwrap();
                    if identities.len() == 4 && kind == 0 {
                        waiting.leave_out(name);
                    } else {
                        waiting.note(name, identities.iter().copied());
                    }
                    model.insert(name, identities);
                } else {
                    let nth = if kind < 5 { 0 } else { pick.index(model.len()) };
                    orderly &= nth == 0;
                    let name = *model.keys().nth(nth).unwrap();
                    let gone = model.remove(&name).unwrap();
                    let readable = kind < 5 || pick.index(3) > 0;
                    waiting.forget(name, readable.then_some(gone.into_iter()));
                }
                if model.is_empty() {
                    waiting.clear();
                    orderly = true;
                }
                for identity in 0..6 {
                    let newest = model.iter().rev().find(|(_, ids)| ids.contains(&identity)).map(|(n, _)| *n);
                    match waiting.holds(identity) {
                        Held::Yes(name) => prop_assert_eq!(Some(name), newest),
                        Held::No => prop_assert_eq!(None, newest),
                        Held::Unknown => prop_assert!(!orderly || !waiting.is_complete()),
                    }
                }
                prop_assert!(waiting.len() <= capacity);
                prop_assert_eq!(waiting.slots.iter().filter(|s| s.entries == 0).count(), waiting.free.len());
            }
        }
    }
}
