use std::fmt::Display;

/// A message that cannot become a value of the domain: which field, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field `{field}`: {reason}")]
pub struct ConversionError {
    /// Path of the field, outermost message first, for example `policy.waves[2]`.
    pub field: String,
    /// What is wrong with it and what was expected.
    pub reason: String,
}

impl ConversionError {
    /// An error about one field.
    pub fn new(field: impl Into<String>, reason: impl Display) -> Self {
        Self {
            field: field.into(),
            reason: reason.to_string(),
        }
    }

    /// The same error, seen from the message that holds `outer`.
    #[must_use]
    pub fn within(self, outer: impl Display) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            reason: self.reason,
        }
    }
}

/// Names the field that a message must carry.
pub trait OptionExt<T> {
    /// The value, or an error that says the field is missing.
    ///
    /// # Errors
    /// The field is absent.
    fn required(self, field: &str) -> Result<T, ConversionError>;
}

impl<T> OptionExt<T> for Option<T> {
    fn required(self, field: &str) -> Result<T, ConversionError> {
        self.ok_or_else(|| ConversionError::new(field, "is missing"))
    }
}

/// Names the field whose value the domain refuses.
pub trait ResultExt<T> {
    /// The value, or the domain's reason under the field's name.
    ///
    /// # Errors
    /// The domain's type refuses the value.
    fn field(self, field: &str) -> Result<T, ConversionError>;
}

impl<T, E: Display> ResultExt<T> for Result<T, E> {
    fn field(self, field: &str) -> Result<T, ConversionError> {
        self.map_err(|reason| ConversionError::new(field, reason))
    }
}

/// The value of an enumeration, or an error that names the field and the number.
pub(crate) fn enumerated<T: TryFrom<i32>>(field: &str, value: i32) -> Result<T, ConversionError> {
    T::try_from(value).map_err(|_| ConversionError::new(field, format!("{value} is no value this version knows")))
}
