//! Small pieces that several nouns share: lists, `changed`, `null` apart from absent, objects that are no arrays.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Entries of a list when `limit` is not given.
pub const DEFAULT_LIMIT: u32 = 50;
/// The most entries one page of a list has.
pub const MAX_LIMIT: u32 = 500;

/// A page of a list as a client reads it; on the wire the items are under their plural noun.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed<T> {
    pub items: Vec<T>,
    pub total: u64,
    pub next_cursor: Option<String>,
}

impl<T: Serialize> Listed<T> {
    /// `{"<noun>": [...], "total": n, "next_cursor": null}`
    pub fn under(&self, noun: &str) -> Value {
        let mut out = serde_json::Map::new();
        out.insert(noun.to_string(), serde_json::to_value(&self.items).unwrap_or(Value::Null));
        out.insert("total".into(), self.total.into());
        out.insert("next_cursor".into(), self.next_cursor.clone().into());
        Value::Object(out)
    }
}

impl<T: DeserializeOwned> Listed<T> {
    /// Reads the page under `noun`. Errors: the answer has another shape.
    pub fn from_value(noun: &str, mut answer: Value) -> Result<Listed<T>, serde_json::Error> {
        let items = serde_json::from_value(answer.get_mut(noun).map(Value::take).unwrap_or(Value::Null))?;
        Ok(Listed {
            items,
            total: answer.get("total").and_then(Value::as_u64).unwrap_or(0),
            next_cursor: answer.get("next_cursor").and_then(Value::as_str).map(str::to_string),
        })
    }
}

/// For `Option<Option<T>>` with `#[serde(default)]`: the outer `None` is absent, the inner one is `null`.
pub fn nullable<'de, T, D>(d: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(d).map(Some)
}

/// A nested object that must be one: derived structs would take an array as well, field by field. `null` is absent.
pub fn object<'de, T, D>(d: D) -> Result<Option<T>, D::Error>
where
    T: DeserializeOwned,
    D: Deserializer<'de>,
{
    match Value::deserialize(d)? {
        Value::Null => Ok(None),
        v @ Value::Object(_) => serde_json::from_value(v).map(Some).map_err(serde::de::Error::custom),
        _ => Err(serde::de::Error::custom("must be an object")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_reads_what_it_writes() {
        let page = Listed { items: vec![1u32, 2], total: 7, next_cursor: Some("abc".into()) };
        let wire = page.under("things");
        assert_eq!(wire, serde_json::json!({"things": [1, 2], "total": 7, "next_cursor": "abc"}));
        assert_eq!(Listed::<u32>::from_value("things", wire).unwrap(), page);
    }

    #[test]
    fn an_array_is_not_an_object() {
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        struct Inner {
            a: u8,
        }
        #[derive(Debug, Deserialize)]
        struct Outer {
            #[serde(default, deserialize_with = "object")]
            inner: Option<Inner>,
        }
        assert!(serde_json::from_str::<Outer>(r#"{"inner":[]}"#).is_err());
        assert_eq!(serde_json::from_str::<Outer>(r#"{"inner":{"a":3}}"#).unwrap().inner.unwrap().a, 3);
        assert!(serde_json::from_str::<Outer>(r#"{"inner":null}"#).unwrap().inner.is_none());
    }
}
