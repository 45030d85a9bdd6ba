//! The codec of our services. As prost's, but a request with a field that this version does not know is refused, by the
//! field's path: an older daemon must not take a call and silently leave out part of what was asked for. Answers are
//! read as protobuf usually is, so that an older client understands a newer daemon.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::LazyLock;

use bytes::Buf as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost::{Message, Name};
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use super::reason::Reason;
use super::status::Failure;
use super::v1::FILE_DESCRIPTOR_SET;

/// See the module.
#[derive(Debug, Clone)]
pub struct StrictCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for StrictCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for StrictCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = StrictDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        StrictDecoder {
            known: U::NAME.ends_with("Request").then(|| SCHEMA.message(&U::full_name())).flatten(),
            _of: PhantomData,
        }
    }
}

/// Decodes one kind of message.
#[derive(Debug)]
pub struct StrictDecoder<U> {
    /// The fields to insist on; `None` for answers.
    known: Option<&'static Fields>,
    _of: PhantomData<U>,
}

impl<U: Message + Default> Decoder for StrictDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if let Some(fields) = self.known {
            // The whole message lies in one piece.
            refuse_unknown(buf.chunk(), fields)?;
        }
        U::decode(buf).map(Some).map_err(|error| {
            Failure::new(Reason::MalformedMessage, format!("the message cannot be read: {error}")).into_status()
        })
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// A message's fields by number.
type Fields = HashMap<u32, Field>;

#[derive(Debug)]
struct Field {
    name: String,
    /// The message that it holds, by full name.
    message: Option<String>,
}

struct Schema(HashMap<String, Fields>);

impl Schema {
    fn message(&self, full_name: &str) -> Option<&Fields> {
        self.0.get(full_name)
    }
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("our own descriptors, made by the build");
    let mut messages = HashMap::new();
    for file in &set.file {
        for message in &file.message_type {
            index(file.package(), message, &mut messages);
        }
    }
    Schema(messages)
});

fn index(scope: &str, message: &DescriptorProto, into: &mut HashMap<String, Fields>) {
    let full_name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        index(&full_name, nested, into);
    }
    let fields = message.field.iter().map(|field| {
        let holds_message = field.r#type() == field_descriptor_proto::Type::Message;
        let message = holds_message.then(|| field.type_name().trim_start_matches('.').to_owned());
        (u32::try_from(field.number()).unwrap_or(0), Field { name: field.name().to_owned(), message })
    });
    into.insert(full_name, fields.collect());
}

/// # Errors
/// UNKNOWN_FIELD with the path of the first one. Malformed bytes are left to the decoder to describe.
fn refuse_unknown(message: &[u8], fields: &Fields) -> Result<(), Status> {
    let mut path = Vec::new();
    let Some(number) = find_unknown(message, fields, &mut path) else { return Ok(()) };
    path.reverse();
    path.push(format!("#{number}"));
    let path = path.join(".");
    let message = format!(
        "field {path} is not known to version {} of this daemon and could not be honoured: leave it out, or update",
        env!("CARGO_PKG_VERSION")
    );
    let why = "is not known to this version";
    Err(Failure::new(Reason::UnknownField, message).with("field", &path).violation(path, why).into_status())
}

/// The number of the first unknown field; `path` gets the names of the fields around it, innermost first.
fn find_unknown(mut message: &[u8], fields: &Fields, path: &mut Vec<String>) -> Option<u32> {
    while !message.is_empty() {
        let (number, wire_type) = decode_key(&mut message).ok()?;
        let Some(field) = fields.get(&number) else { return Some(number) };
        let length = match wire_type {
            WireType::Varint => decode_varint(&mut message).ok().map(|_| 0)?,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut message).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let inside = message.get(..length)?;
        message = &message[length..];
        let nested = field.message.as_deref().and_then(|name| SCHEMA.message(name));
        if wire_type == WireType::LengthDelimited
            && let Some(nested) = nested
            && let Some(unknown) = find_unknown(inside, nested, path)
        {
            path.push(field.name.clone());
            return Some(unknown);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use prost::encoding::{encode_key, encode_varint};
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::api::v1;

    fn fields(name: &str) -> &'static Fields {
        SCHEMA.message(&format!("tidegate.v1.{name}")).unwrap()
    }

    fn with_unknown(mut message: Vec<u8>) -> Vec<u8> {
        encode_key(4_000, WireType::Varint, &mut message);
        encode_varint(7, &mut message);
        message
    }

    #[test]
    fn an_unknown_field_is_named_by_its_path() {
        let spec = with_unknown(v1::UploadSpec { key: "free/a.jpg".to_owned(), ..Default::default() }.encode_to_vec());
        let mut begin = Vec::new();
        encode_key(2, WireType::LengthDelimited, &mut begin);
        encode_varint(spec.len() as u64, &mut begin);
        begin.extend(spec);
        let mut request = Vec::new();
        encode_key(1, WireType::LengthDelimited, &mut request);
        encode_varint(begin.len() as u64, &mut request);
        request.extend(begin);
        let status = refuse_unknown(&request, fields("UploadRequest")).unwrap_err();
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations[0].field, "begin.spec.#4000");
        let status = refuse_unknown(&with_unknown(Vec::new()), fields("PauseRequest")).unwrap_err();
        assert_eq!(status.get_error_details().error_info().unwrap().reason, "UNKNOWN_FIELD");
    }

    #[test]
    fn every_request_of_the_api_is_known() {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let methods = set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method);
        let mut count = 0;
        for method in methods {
            let input = method.input_type().trim_start_matches('.');
            assert!(SCHEMA.message(input).is_some(), "{input}");
            assert!(input.ends_with("Request"), "{input}");
            count += 1;
        }
        assert!(count >= 28, "{count}");
    }

    proptest! {
        #[test]
        fn whatever_prost_writes_is_known(
            key in ".*", states in proptest::collection::vec(0_i32..9, 0..5), size in any::<i32>(),
            metadata in proptest::collection::hash_map(".*", ".*", 0..4),
            chunk in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let list = v1::ListUploadsRequest { page_size: size, states, session: key.clone(), page_token: String::new() };
            prop_assert!(refuse_unknown(&list.encode_to_vec(), fields("ListUploadsRequest")).is_ok());
            let spec = v1::UploadSpec { key, metadata, overwrite: true, ..Default::default() };
            let create = v1::CreateUploadRequest { spec: Some(spec), ..Default::default() };
            prop_assert!(refuse_unknown(&create.encode_to_vec(), fields("CreateUploadRequest")).is_ok());
            let chunk = v1::UploadRequest { message: Some(v1::upload_request::Message::Chunk(chunk.into())) };
            prop_assert!(refuse_unknown(&chunk.encode_to_vec(), fields("UploadRequest")).is_ok());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = refuse_unknown(&bytes, fields("UploadRequest"));
        }
    }
}
