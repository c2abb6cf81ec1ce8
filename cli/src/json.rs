//! JSON as every command prints it: one object a line, `"v":1` first, fields in the order in which they were put.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

/// The version of everything that `--json` prints; a field that changes its meaning raises it.
pub(crate) const VERSION: u32 = 1;

/// One JSON object whose fields keep their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object {
    fields: Vec<(String, Value)>,
}

impl Object {
    /// An object with its version alone.
    pub(crate) fn new() -> Self {
        Self { fields: vec![("v".to_owned(), VERSION.into())] }
    }

    /// An object inside another one: without a version.
    pub(crate) fn bare() -> Self {
        Self::default()
    }

    /// One more field.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.push((name.to_owned(), value.into()));
        self
    }

    /// One more field where there is a value.
    #[must_use]
    pub(crate) fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// A field of bytes: text where they are UTF-8, else base64 in a field whose name ends in `_b64`.
    #[must_use]
    pub(crate) fn with_bytes(self, name: &str, bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.with(name, text),
            Err(_) => self.with(&format!("{name}_b64"), STANDARD.encode(bytes)),
        }
    }

    /// The object on one line.
    pub(crate) fn line(&self) -> String {
        serde_json::to_string(self).expect("an object of plain values can be written")
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_behind_the_version() {
        let object = Object::new().with("z", 1).with("a", "b").with_some("none", None::<u64>);
        assert_eq!(object.line(), r#"{"v":1,"z":1,"a":"b"}"#);
    }

    #[test]
    fn a_name_that_is_no_text_is_base64() {
        assert_eq!(Object::new().with_bytes("name", b"a\nb").line(), r#"{"v":1,"name":"a\nb"}"#);
        assert_eq!(Object::new().with_bytes("name", b"\xff\x00").line(), r#"{"v":1,"name_b64":"/wA="}"#);
    }
}
