//! The command line of `cargo xtask results`: options that each take one or more values.

use std::path::PathBuf;

use crate::failure::Error;

/// An option that a command knows.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// With its dashes.
    pub name: &'static str,
    /// Takes all values up to the next option, instead of one.
    pub many: bool,
}

/// One value.
pub const fn one(name: &'static str) -> Known {
    Known { name, many: false }
}

/// One or more values.
pub const fn many(name: &'static str) -> Known {
    Known { name, many: true }
}

/// The options that were given, in their order.
#[derive(Debug, Default)]
pub struct Arguments {
    values: Vec<(&'static str, String)>,
}

impl Arguments {
    /// Reads the words after the command's name.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown option, a missing value, or a second value where one is taken.
    pub fn parse(words: &[String], known: &[Known]) -> Result<Self, Error> {
        let mut arguments = Self::default();
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            let Some(option) = known.iter().find(|option| option.name == word) else {
                let names: Vec<&str> = known.iter().map(|option| option.name).collect();
                return Err(Error::Usage(format!(
                    "there is no option {word:?} here; the options are {}",
                    names.join(", ")
                )));
            };
            let mut values = Vec::new();
            while let Some(value) =
                words.next_if(|next| !next.starts_with("--") && (option.many || values.is_empty()))
            {
                values.push((option.name, value.clone()));
            }
            if values.is_empty() {
                return Err(Error::Usage(format!(
                    "{word} needs a value; write it after the option"
                )));
            }
            if !option.many && arguments.get(option.name).is_some() {
                return Err(Error::Usage(format!(
                    "{word} is given twice; leave one of them out"
                )));
            }
            arguments.values.append(&mut values);
        }
        Ok(arguments)
    }

    /// The value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value.as_str())
    }

    /// The value of an option that must be given.
    ///
    /// # Errors
    /// [`Error::Usage`] with `meaning` as the remedy.
    pub fn required(&self, name: &str, meaning: &str) -> Result<&str, Error> {
        self.get(name)
            .ok_or_else(|| Error::Usage(format!("{name} is missing; give {meaning} with it")))
    }

    /// All values of an option, as paths; at least one.
    ///
    /// # Errors
    /// [`Error::Usage`] with `meaning` as the remedy.
    pub fn paths(&self, name: &str, meaning: &str) -> Result<Vec<PathBuf>, Error> {
        self.required(name, meaning)?;
        Ok(self
            .values
            .iter()
            .filter(|(given, _)| *given == name)
            .map(|(_, value)| value.into())
            .collect())
    }

    /// A number, or `default` where none is given.
    ///
    /// # Errors
    /// [`Error::Usage`] where the value is not a whole number above 0.
    pub fn count(&self, name: &str, default: usize) -> Result<usize, Error> {
        match self.get(name) {
            None => Ok(default),
            Some(text) => text.parse().ok().filter(|&count| count > 0).ok_or_else(|| {
                Error::Usage(format!(
                    "{name} is {text:?}; give a whole number, 1 or more"
                ))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, Error> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        Arguments::parse(&words, &[many("--train"), one("--work")])
    }

    #[test]
    fn options_take_one_or_more_values() {
        let arguments = parse("--train a b --work w").expect("good");
        assert_eq!(
            arguments.paths("--train", "texts").expect("given"),
            ["a", "b"].map(PathBuf::from)
        );
        assert_eq!(arguments.get("--work"), Some("w"));
        assert_eq!(arguments.count("--other", 7).expect("default"), 7);
        assert!(arguments.required("--other", "it").is_err());
    }

    #[test]
    fn bad_usage_is_told() {
        for line in [
            "--train",
            "--wrok w",
            "--work a b",
            "--work a --work b",
            "word",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
