//! JSON values that may be missing or of another type without spoiling the frame.

use crate::Limits;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// A field that may be missing or of the wrong type without spoiling the whole frame.
#[derive(Debug, Default, PartialEq)]
pub(super) enum Field<T> {
    #[default]
    Missing,
    /// There as null, which means the same as not there.
    Null,
    Given(T),
    /// There, and of another type.
    Other,
}

impl<T> Field<T> {
    /// The value, whatever else stands there being taken for nothing.
    pub(super) fn lenient(self) -> Option<T> {
        match self {
            Field::Given(value) => Some(value),
            Field::Missing | Field::Null | Field::Other => None,
        }
    }
}

/// Reads the next value into a field; a repeated key makes the whole frame ambiguous.
pub(super) fn set<'de, T, A>(field: &mut Field<T>, map: &mut A) -> Result<(), A::Error>
where
    A: MapAccess<'de>,
    Field<T>: From<Loose<'de>> + PartialEq,
{
    if *field != Field::Missing {
        return Err(A::Error::custom("a key comes twice"));
    }
    *field = map.next_value::<Loose<'de>>()?.into();
    Ok(())
}

/// The key of a frame's field.
pub(super) struct Key<'de>(Cow<'de, str>);

impl Key<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(LooseVisitor { is_entry: false })? {
            Loose::Text(text) => Ok(Key(text)),
            _ => Err(D::Error::custom("a key must be a string")),
        }
    }
}

/// Any JSON value, kept only as far as a frame can use it.
pub(super) enum Loose<'de> {
    Null,
    Flag(bool),
    Number(u64),
    Text(Cow<'de, str>),
    List(Vec<Cow<'de, str>>),
    Other,
}

impl<'de> From<Loose<'de>> for Field<Cow<'de, str>> {
    fn from(loose: Loose<'de>) -> Self {
        match loose {
            Loose::Null => Field::Null,
            Loose::Text(text) => Field::Given(text),
            _ => Field::Other,
        }
    }
}

impl<'de> From<Loose<'de>> for Field<Vec<Cow<'de, str>>> {
    fn from(loose: Loose<'de>) -> Self {
        match loose {
            Loose::Null => Field::Null,
            Loose::List(list) => Field::Given(list),
            _ => Field::Other,
        }
    }
}

impl From<Loose<'_>> for Field<bool> {
    fn from(loose: Loose<'_>) -> Self {
        match loose {
            Loose::Null => Field::Null,
            Loose::Flag(flag) => Field::Given(flag),
            _ => Field::Other,
        }
    }
}

impl From<Loose<'_>> for Field<u64> {
    fn from(loose: Loose<'_>) -> Self {
        match loose {
            Loose::Null => Field::Null,
            Loose::Number(number) => Field::Given(number),
            _ => Field::Other,
        }
    }
}

impl<'de> Deserialize<'de> for Loose<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor { is_entry: false })
    }
}

/// An entry of a list. A list inside it is skipped, not kept, so that no input can nest calls here
/// (and the depth that `serde_json` allows its visitors is never what decides).
struct Entry<'de>(Loose<'de>);

impl<'de> Deserialize<'de> for Entry<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor { is_entry: true }).map(Entry)
    }
}

struct LooseVisitor {
    is_entry: bool,
}

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Loose<'de>, E> {
        Ok(Loose::Null)
    }
    fn visit_bool<E>(self, flag: bool) -> Result<Loose<'de>, E> {
        Ok(Loose::Flag(flag))
    }
    fn visit_u64<E>(self, number: u64) -> Result<Loose<'de>, E> {
        Ok(Loose::Number(number))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Loose<'de>, E> {
        Ok(Loose::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Loose<'de>, E> {
        Ok(Loose::Other)
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Loose<'de>, E> {
        Ok(Loose::Text(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Loose<'de>, E> {
        Ok(Loose::Text(Cow::Owned(text.to_owned())))
    }
    fn visit_string<E>(self, text: String) -> Result<Loose<'de>, E> {
        Ok(Loose::Text(Cow::Owned(text)))
    }

    /// A list of strings keeps its first [`Limits::MAX_CAPABILITIES`]; anything else in it spoils it.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Loose<'de>, A::Error> {
        if self.is_entry {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Loose::Other);
        }
        let (mut list, mut is_bad) = (Vec::new(), false);
        while let Some(Entry(entry)) = seq.next_element()? {
            match entry {
                Loose::Text(text) if list.len() < Limits::MAX_CAPABILITIES => list.push(text),
                Loose::Text(_) => {}
                _ => is_bad = true,
            }
        }
        Ok(if is_bad { Loose::Other } else { Loose::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose::Other)
    }
}
