//! Messages of any type, made from random bytes: serde tells what a type wants next, the dice decide.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::de::value::{Error, U32Deserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess,
    Visitor,
};

/// Longest collection thrown.
const ELEMENTS_MAX: u64 = 4;

/// The shape of every type that was thrown: names of fields, or of variants with the names of their fields.
#[derive(Debug, Default)]
pub struct Shapes {
    pub structs: BTreeMap<&'static str, Vec<&'static str>>,
    pub enums: BTreeMap<&'static str, Vec<&'static str>>,
    pub variants: BTreeMap<(&'static str, usize), Vec<&'static str>>,
    /// Types of fields as `docs/wire.md` calls them, by structure, or variant's number in its enumeration, and field.
    pub types: BTreeMap<(&'static str, Option<usize>, &'static str), String>,
}

impl Shapes {
    fn note_types(
        &mut self,
        name: &'static str,
        tag: Option<usize>,
        fields: &[&'static str],
        types: Vec<String>,
    ) {
        // Of what was none or empty this time the dice have not seen what it is.
        let seen = fields.iter().zip(types).filter(|(_, kind)| !kind.contains(UNSEEN));
        self.types.extend(seen.map(|(field, kind)| ((name, tag, *field), kind)));
    }
}

/// Stands for the type of what is not there.
const UNSEEN: &str = "…";

/// A `T` made from `bytes`; when they run out everything further is as small as can be.
pub fn throw<T: DeserializeOwned>(bytes: &[u8]) -> T {
    throw_and_note(bytes, &RefCell::default())
}

/// The same, noting the shapes that were met on the way.
pub fn throw_and_note<T: DeserializeOwned>(bytes: &[u8], shapes: &RefCell<Shapes>) -> T {
    T::deserialize(&mut Dice { bytes, shapes, last: String::new(), parts: Vec::new() }).unwrap()
}

struct Dice<'a> {
    bytes: &'a [u8],
    shapes: &'a RefCell<Shapes>,
    /// The type of what was thrown last.
    last: String,
    /// Of each sequence that is being thrown the types of its elements so far.
    parts: Vec<Vec<String>>,
}

impl Dice<'_> {
    fn number<const N: usize>(&mut self) -> [u8; N] {
        let mut number = [0; N];
        for byte in &mut number {
            if let Some((first, rest)) = self.bytes.split_first() {
                (*byte, self.bytes) = (*first, rest);
            }
        }
        number
    }

    fn below(&mut self, bound: u64) -> u64 {
        u64::from(self.number::<1>()[0]) % bound
    }

    fn is(&mut self, kind: &str) {
        kind.clone_into(&mut self.last);
    }

    /// So many elements, and their types.
    fn elements<'de, V: Visitor<'de>>(
        &mut self,
        left: u64,
        visitor: V,
    ) -> Result<(V::Value, Vec<String>), Error> {
        self.parts.push(Vec::new());
        let value = visitor.visit_seq(Elements { dice: self, left })?;
        Ok((value, self.parts.pop().unwrap()))
    }

    fn text(&mut self) -> String {
        const LETTERS: [char; 8] = ['a', 'Z', '\0', '\n', 'é', '日', '🙂', '\u{202e}'];
        (0..self.below(12)).map(|_| LETTERS[usize::try_from(self.below(8)).unwrap()]).collect()
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.is(stringify!($type));
            visitor.$visit(<$type>::from_le_bytes(self.number()))
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Dice<'_> {
    type Error = Error;

    numbers!(deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
             deserialize_u64 visit_u64 u64, deserialize_i32 visit_i32 i32);

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        panic!("no wire type is self-describing");
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("bool");
        visitor.visit_bool(self.below(2) == 1)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("string");
        visitor.visit_string(self.text())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("string");
        visitor.visit_string(self.text())
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.is("bytes");
        let length = self.below(40);
        visitor.visit_byte_buf((0..length).map(|_| self.number::<1>()[0]).collect())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.below(2) == 0 {
            self.is(UNSEEN);
            return visitor.visit_none();
        }
        let value = visitor.visit_some(&mut *self)?;
        self.last.push('?');
        Ok(value)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let left = self.below(ELEMENTS_MAX + 1);
        let (value, parts) = self.elements(left, visitor)?;
        self.last = format!("list of {}", parts.last().map_or(UNSEEN, |part| part));
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let (value, parts) = self.elements(len as u64, visitor)?;
        self.last = match parts.iter().collect::<BTreeSet<_>>().len() {
            1 if parts[0] == "u8" && len == 32 => "digest".to_owned(),
            1 if parts[0] == "u64" => format!("[u64; {len}]"),
            _ => format!("({})", parts.join(", ")),
        };
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.shapes.borrow_mut().structs.insert(name, fields.to_vec());
        let (value, parts) = self.elements(fields.len() as u64, visitor)?;
        self.shapes.borrow_mut().note_types(name, None, fields, parts);
        self.is(name);
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.shapes.borrow_mut().enums.insert(name, variants.to_vec());
        let chosen = usize::try_from(self.below(variants.len() as u64)).unwrap();
        let value = visitor.visit_enum(Variant { dice: &mut *self, name, chosen })?;
        self.is(name);
        Ok(value)
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i64 i128 u128 f32 f64 char bytes unit unit_struct tuple_struct map identifier ignored_any
    }
}

struct Elements<'d, 'a> {
    dice: &'d mut Dice<'a>,
    left: u64,
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let element = seed.deserialize(&mut *self.dice)?;
        let kind = self.dice.last.clone();
        self.dice.parts.last_mut().unwrap().push(kind);
        Ok(Some(element))
    }
}

struct Variant<'d, 'a> {
    dice: &'d mut Dice<'a>,
    name: &'static str,
    chosen: usize,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let tag: U32Deserializer<Error> = u32::try_from(self.chosen).unwrap().into_deserializer();
        Ok((seed.deserialize(tag)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self.dice)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        Ok(self.dice.elements(len as u64, visitor)?.0)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Self { dice, name, chosen } = self;
        dice.shapes.borrow_mut().variants.insert((name, chosen), fields.to_vec());
        let (value, parts) = dice.elements(fields.len() as u64, visitor)?;
        dice.shapes.borrow_mut().note_types(name, Some(chosen), fields, parts);
        Ok(value)
    }
}
