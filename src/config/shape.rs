//! What a value must look like: the annotated schema as a tree that the checker walks.

use serde_json::{Map, Value};

use super::form::{FORMS, Form};
use super::nearest::one_of;

/// What is expected at one place.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// Text; of a form, within bounds of that form.
    Text(Text),
    /// One of these words.
    Words(Vec<Word>),
    /// A whole number.
    Integer {
        min: u64,
        max: u64,
    },
    Boolean,
    List {
        item: Box<Self>,
        min: usize,
    },
    /// A map of names to values.
    Named {
        value: Box<Self>,
        min: usize,
    },
    Section(Section),
    /// `name` or `{name: {options}}`.
    Choice(Vec<Branch>),
    /// One of several, told apart by being text, a list or a map.
    Any(Vec<Self>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Text {
    pub(super) form: Option<&'static Form>,
    pub(super) min: Option<Bound>,
    pub(super) max: Option<Bound>,
}

/// A bound of a text: as a measure of its form, and as text.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) measure: u64,
    pub(super) text: String,
}

#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) name: String,
    pub(super) doc: String,
    /// The word says that there is no value.
    pub(super) is_none: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub(super) name: String,
    pub(super) doc: String,
    /// A section of options; `None` for a mere word.
    pub(super) options: Option<Shape>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    pub(super) doc: String,
    pub(super) keys: Vec<Key>,
    /// The key that a text in the place of the section is the value of.
    pub(super) shorthand: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) doc: String,
    pub(super) shape: Shape,
    pub(super) is_required: bool,
    /// As JSON; `None` also where a section is the default of all its keys.
    pub(super) default: Option<Value>,
    /// Another key whose text is the default.
    pub(super) default_from: Option<String>,
    /// The key is a word for a value of another one: true means that the other has that value.
    pub(super) means: Option<(String, u64)>,
}

impl Section {
    pub(super) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Shape {
    /// Reads an annotated schema (see `schema::annotated`).
    pub(super) fn of(schema: &Value) -> Self {
        let none = Map::new();
        let object = schema.as_object().unwrap_or(&none);
        if let Some(branches) = array(object, "anyOf") {
            let mut shapes: Vec<Self> = branches.iter().map(Self::of).collect();
            shapes.iter_mut().for_each(|shape| shape.bound(object));
            return Self::Any(shapes);
        }
        if let Some(branches) = array(object, "oneOf") {
            return choice(branches);
        }
        if let Some(words) = words(object) {
            return Self::Words(words);
        }
        match object.get("type").and_then(Value::as_str) {
            Some("integer") => {
                Self::Integer { min: number(object, "minimum", 0), max: max(object) }
            }
            Some("boolean") => Self::Boolean,
            Some("array") => Self::List {
                item: Box::new(object.get("items").map_or_else(Self::text, Self::of)),
                min: size(object, "minItems"),
            },
            Some("object") => match object.get("additionalProperties") {
                Some(value) if value.is_object() => Self::Named {
                    value: Box::new(Self::of(value)),
                    min: size(object, "minProperties"),
                },
                _ => Self::Section(section(object)),
            },
            _ => {
                let form = object.get("x-form").and_then(Value::as_str);
                let form = form.and_then(|name| FORMS.iter().find(|form| form.name == name));
                let mut shape = Self::Text(Text { form, min: None, max: None });
                shape.bound(object);
                shape
            }
        }
    }

    /// Whether its values are written as one piece of text and any text may be one.
    pub(super) fn is_leaf(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Integer { .. } | Self::Boolean)
    }

    /// The section that a map would be.
    pub(super) fn section(&self) -> Option<&Section> {
        match self {
            Self::Section(section) => Some(section),
            Self::Any(shapes) => shapes.iter().find_map(Self::section),
            _ => None,
        }
    }

    /// Whether it is a list of words that has `word`.
    pub(super) fn has_word(&self, word: &str) -> bool {
        matches!(self, Self::Words(words) if words.iter().any(|known| known.name == word))
    }

    fn text() -> Self {
        Self::Text(Text::default())
    }

    /// Takes `x-minimum` and `x-maximum` over.
    fn bound(&mut self, object: &Map<String, Value>) {
        let Self::Text(Text { form: Some(form), min, max }) = self else { return };
        let bound = |key: &str| {
            let text = object.get(key)?.as_str()?;
            let measure = (form.check)(text).ok()??;
            Some(Bound { measure, text: text.to_owned() })
        };
        *min = bound("x-minimum");
        *max = bound("x-maximum");
    }

    /// What is expected, as in "expected …".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => text.describe(),
            Self::Words(words) => one_of(words.iter().map(|word| word.name.as_str())),
            Self::Integer { min, max } if *max >= u64::from(u32::MAX) => match min {
                0 => "a whole number".to_owned(),
                _ => format!("a whole number of {min} or more"),
            },
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Boolean => "true or false".to_owned(),
            Self::List { item, .. } => format!("a list, each item {}", item.describe()),
            Self::Named { .. } => "a map of names to sections".to_owned(),
            Self::Section(section) => section.describe(),
            Self::Choice(branches) => one_of(branches.iter().map(|branch| branch.name.as_str())),
            Self::Any(shapes) => {
                let mut all: Vec<String> = Vec::new();
                for shape in shapes {
                    all.push(match shape {
                        Self::List { item, .. } if all.contains(&item.describe()) => {
                            "a list of them".to_owned()
                        }
                        shape => shape.describe(),
                    });
                }
                all.join(", or ")
            }
        }
    }
}

impl Text {
    fn describe(&self) -> String {
        let form = self.form.map_or("text", |form| form.expected);
        match (&self.min, &self.max) {
            (None, None) => form.to_owned(),
            (Some(min), None) => format!("{form}, at least {}", min.text),
            (None, Some(max)) => format!("{form}, at most {}", max.text),
            (Some(min), Some(max)) => format!("{form}, from {} to {}", min.text, max.text),
        }
    }
}

impl Section {
    fn describe(&self) -> String {
        let keys = one_of(self.keys.iter().map(|key| key.name.as_str()));
        let keys = keys.trim_start_matches("one of ");
        match self.shorthand.as_ref().and_then(|key| self.key(key)) {
            Some(key) => format!("{}, or a section with the keys {keys}", key.shape.describe()),
            None if self.keys.is_empty() => "an empty section".to_owned(),
            None => format!("a section with the keys {keys}"),
        }
    }
}

fn array<'v>(object: &'v Map<String, Value>, key: &str) -> Option<&'v Vec<Value>> {
    object.get(key).and_then(Value::as_array)
}

fn string(object: &Map<String, Value>, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(object: &Map<String, Value>, key: &str, default: u64) -> u64 {
    object.get(key).and_then(Value::as_u64).unwrap_or(default)
}

fn size(object: &Map<String, Value>, key: &str) -> usize {
    usize::try_from(number(object, key, 0)).unwrap_or(usize::MAX)
}

fn max(object: &Map<String, Value>) -> u64 {
    let of_type = match object.get("format").and_then(Value::as_str) {
        Some("uint8") => u64::from(u8::MAX),
        Some("uint16") => u64::from(u16::MAX),
        Some("uint32") => u64::from(u32::MAX),
        _ => u64::MAX,
    };
    number(object, "maximum", of_type)
}

/// The words of an `enum` or `const`.
fn words(object: &Map<String, Value>) -> Option<Vec<Word>> {
    let one = object.get("const").map(std::slice::from_ref);
    let values = one.or_else(|| array(object, "enum").map(Vec::as_slice))?;
    let doc = string(object, "description");
    let is_none = object.contains_key("x-none");
    let names = values.iter().filter_map(Value::as_str);
    Some(names.map(|name| Word { name: name.to_owned(), doc: doc.clone(), is_none }).collect())
}

/// A `oneOf`: words only, or a choice of which some have options.
fn choice(branches: &[Value]) -> Shape {
    let mut all_words = Vec::new();
    let mut choices: Vec<Branch> = Vec::new();
    let mut add = |branch: Branch| match choices.iter_mut().find(|one| one.name == branch.name) {
        Some(word) if word.options.is_none() => *word = branch,
        Some(_) => {}
        None => choices.push(branch),
    };
    let mut has_options = false;
    for object in branches.iter().filter_map(Value::as_object) {
        if let Some(words) = words(object) {
            for Word { name, doc, .. } in &words {
                add(Branch { name: name.clone(), doc: doc.clone(), options: None });
            }
            all_words.extend(words);
            continue;
        }
        let properties = object.get("properties").and_then(Value::as_object);
        for (name, options) in properties.into_iter().flatten() {
            has_options = true;
            let doc = string(object, "description");
            add(Branch { name: name.clone(), doc, options: Some(Shape::of(options)) });
        }
    }
    if !has_options && !branches.is_empty() {
        return Shape::Words(all_words);
    }
    Shape::Choice(choices)
}

fn section(object: &Map<String, Value>) -> Section {
    let required = array(object, "required");
    let key = |(name, schema): (&String, &Value)| {
        let none = Map::new();
        let object = schema.as_object().unwrap_or(&none);
        Key {
            name: name.clone(),
            doc: string(object, "description"),
            shape: Shape::of(schema),
            is_required: required.is_some_and(|keys| keys.iter().any(|key| key == name)),
            default: object.get("default").filter(|value| !value.is_object()).cloned(),
            default_from: object.get("x-default-from").and_then(Value::as_str).map(str::to_owned),
            means: object.get("x-means").and_then(Value::as_object).and_then(|means| {
                means.iter().find_map(|(key, value)| Some((key.clone(), value.as_u64()?)))
            }),
        }
    };
    let properties = object.get("properties").and_then(Value::as_object);
    Section {
        doc: string(object, "description"),
        keys: properties.into_iter().flatten().map(key).collect(),
        shorthand: object.get("x-shorthand").and_then(Value::as_str).map(str::to_owned),
    }
}
