//! JSON objects of the backend, read strictly and within bounds.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// Largest number that is read: every JSON parser holds the whole numbers up to it exactly.
const MAX_NUMBER: u64 = 1 << 53;

/// An object, with its members in the order in which they stand.
///
/// Readers name what they look for and say what is wrong when it is there with another type or
/// value. An absent member and a `null` are the same: `None`.
#[derive(Debug)]
pub(crate) struct Object(Vec<(Box<str>, Value)>);

/// What a member can be. `true`, lists and numbers that are negative, fractional or written with an
/// exponent are no value of any member here.
#[derive(Debug)]
enum Value {
    Null,
    Number(u64),
    Text(Box<str>),
    Object(Object),
    Other,
}

impl Object {
    /// Reads a whole text: one object with at most `max_members` members, those of objects and lists
    /// inside it included, and none of them twice in one object. `bad` is the error for a text
    /// that is none.
    pub(crate) fn parse(
        text: &str,
        max_members: usize,
        bad: &'static str,
    ) -> Result<Self, &'static str> {
        let reading = Reading { left: Cell::new(max_members), problem: Cell::new(None) };
        let mut json = serde_json::Deserializer::from_str(text);
        let value = reading.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
        match value {
            Ok(Value::Object(object)) => Ok(object),
            _ => Err(reading.problem.get().unwrap_or(bad)),
        }
    }

    fn get(&self, name: &str) -> &Value {
        let member = self.0.iter().find(|(known, _)| &**known == name);
        member.map_or(&Value::Null, |(_, value)| value)
    }

    /// An object inside this one.
    pub(crate) fn object(
        &self,
        name: &str,
        bad: &'static str,
    ) -> Result<Option<&Object>, &'static str> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Object(object) => Ok(Some(object)),
            _ => Err(bad),
        }
    }

    /// A whole number from 0 to 2^53.
    pub(crate) fn count(&self, name: &str, bad: &'static str) -> Result<Option<u64>, &'static str> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Number(number) if *number <= MAX_NUMBER => Ok(Some(*number)),
            _ => Err(bad),
        }
    }

    /// A whole number from 1 to 2^53.
    pub(crate) fn rate(
        &self,
        name: &str,
        bad: &'static str,
    ) -> Result<Option<NonZeroU64>, &'static str> {
        let number = self.count(name, bad)?;
        number.map(|number| NonZeroU64::new(number).ok_or(bad)).transpose()
    }

    /// A whole number of seconds, 0 included.
    pub(crate) fn seconds(
        &self,
        name: &str,
        bad: &'static str,
    ) -> Result<Option<Duration>, &'static str> {
        Ok(self.count(name, bad)?.map(Duration::from_secs))
    }

    /// A text of a number of bytes.
    pub(crate) fn text(
        &self,
        name: &str,
        lengths: std::ops::RangeInclusive<usize>,
        bad: &'static str,
    ) -> Result<Option<&str>, &'static str> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Text(text) if lengths.contains(&text.len()) => Ok(Some(text)),
            _ => Err(bad),
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(
        &self,
        name: &str,
        words: &[(&str, T)],
        bad: &'static str,
    ) -> Result<Option<T>, &'static str> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Text(text) => {
                let word = words.iter().find(|(word, _)| *word == &**text);
                word.map(|(_, meaning)| Some(*meaning)).ok_or(bad)
            }
            _ => Err(bad),
        }
    }
}

/// Reads a value and everything inside it. `serde_json` bounds the depth.
struct Reading {
    /// Members that may still come.
    left: Cell<usize>,
    /// A rule of [`Object::parse`] that was broken.
    problem: Cell<Option<&'static str>>,
}

impl Reading {
    fn fail<E: Error>(&self, problem: &'static str) -> E {
        self.problem.set(Some(problem));
        E::custom(problem)
    }
}

impl<'de> DeserializeSeed<'de> for &Reading {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &Reading {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members: Vec<(Box<str>, Value)> = Vec::new();
        while let Some(name) = map.next_key::<Box<str>>()? {
            let Some(left) = self.left.get().checked_sub(1) else {
                return Err(self.fail("it has too many members"));
            };
            self.left.set(left);
            if members.iter().any(|(known, _)| *known == name) {
                return Err(self.fail("it has a member twice"));
            }
            members.push((name, map.next_value_seed(self)?));
        }
        Ok(Value::Object(Object(members)))
    }
}
