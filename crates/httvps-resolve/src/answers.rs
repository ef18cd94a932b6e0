//! The cache of answers from name servers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::Name;
use moka::sync::Cache;

use crate::ResolveError;

/// Most names in the cache.
const MAX_NAMES: u64 = 4096;

/// Longest time that an answer is cached, whatever its TTL is.
pub(crate) const MAX_POSITIVE_TTL: Duration = Duration::from_mins(5);

/// Longest time that the absence of a name is cached.
pub(crate) const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// Most addresses of a cached name. An answer may hold thousands; it is not truncated, since the policy checks each
/// address.
const MAX_ADDRESSES: usize = 32;

/// The result of a lookup.
type Answer = Result<Arc<[IpAddr]>, ResolveError>;

/// The cache. A query never waits.
///
/// When it is full, a name is added only if it is requested more often than the one that it would replace: a device that requests
/// thousands of names once does not evict those in use.
pub(crate) struct Answers {
    names: Cache<Name, (Answer, Instant)>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        let names = Cache::builder().max_capacity(MAX_NAMES).time_to_live(MAX_POSITIVE_TTL).build();
        Self { names }
    }

    /// The answer for a name, if it is still valid at `now`.
    pub(crate) fn get(
        &self,
        name: &Name,
        now: Instant,
    ) -> Option<Result<Vec<IpAddr>, ResolveError>> {
        let (answer, valid_until) = self.names.get(name)?;
        (now < valid_until).then(|| answer.map(|addresses| addresses.to_vec()))
    }

    /// Caches an answer until `valid_until`, within the bounds.
    pub(crate) fn remember(
        &self,
        name: Name,
        answer: Result<&[IpAddr], ResolveError>,
        valid_until: Instant,
        now: Instant,
    ) {
        let longest = if answer.is_ok() { MAX_POSITIVE_TTL } else { MAX_NEGATIVE_TTL };
        let valid_until = valid_until.min(now + longest);
        if valid_until <= now || answer.is_ok_and(|addresses| addresses.len() > MAX_ADDRESSES) {
            return;
        }
        self.names.insert(name, (answer.map(Arc::from), valid_until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MILLISECOND: Duration = Duration::from_millis(1);
    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn an_answer_is_valid_as_long_as_it_says_and_no_longer_than_the_bounds() {
        let (answers, now) = (Answers::new(), Instant::now());
        let day = Duration::from_hours(24);
        for (text, answer, ttl, valid) in [
            ("short.example.", Ok(&[ADDRESS][..]), Duration::from_secs(7), Duration::from_secs(7)),
            ("long.example.", Ok(&[ADDRESS][..]), day, MAX_POSITIVE_TTL),
            ("none.example.", Err(ResolveError::NoSuchName), day, MAX_NEGATIVE_TTL),
        ] {
            answers.remember(name(text), answer, now + ttl, now);
            let known = |at| answers.get(&name(&text.to_uppercase()), at);
            assert_eq!(known(now), Some(answer.map(<[_]>::to_vec)), "{text}");
            assert!(known(now + valid.saturating_sub(MILLISECOND)).is_some(), "{text}");
            assert_eq!(known(now + valid), None, "{text}");
        }
        answers.remember(name("over.example."), Ok(&[ADDRESS]), now, now);
        assert_eq!(answers.get(&name("over.example."), now), None);
    }

    #[test]
    fn an_answer_of_very_many_addresses_is_not_kept() {
        let (answers, now) = (Answers::new(), Instant::now());
        for (text, count) in
            [("many.example.", MAX_ADDRESSES), ("more.example.", MAX_ADDRESSES + 1)]
        {
            let valid_until = now + MAX_POSITIVE_TTL;
            answers.remember(name(text), Ok(&vec![ADDRESS; count]), valid_until, now);
            assert_eq!(answers.get(&name(text), now).is_some(), count == MAX_ADDRESSES, "{text}");
        }
    }

    #[test]
    fn a_flood_of_names_is_bounded_and_leaves_those_in_use_alone() {
        let (answers, now) = (Answers::new(), Instant::now());
        let valid_until = now + MAX_POSITIVE_TTL;
        let used = name("used.example.");
        answers.remember(used.clone(), Ok(&[ADDRESS]), valid_until, now);
        for number in 0..3 * MAX_NAMES {
            answers.remember(name(&format!("{number}.example.")), Ok(&[ADDRESS]), valid_until, now);
            if number % 64 == 0 {
                assert!(answers.get(&used, now).is_some(), "after {number} others");
            }
        }
        answers.names.run_pending_tasks();
        assert!(answers.names.entry_count() <= MAX_NAMES);
        assert!(answers.get(&used, now).is_some());
    }
}
