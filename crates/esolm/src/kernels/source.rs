//! Puts a WGSL kernel together: constants, shared snippets, then three line directives.
//!
//! - `{{name}}` is replaced by a snippet or a binding number.
//! - `//@unroll v N` .. `//@end` repeats its lines N times with `$v` replaced by 0, 1, ...; N is a number or one of the
//!   constants. Register blocks written this way do not depend on what a driver's compiler unrolls.
//! - `//@if FLAG` .. `//@else` .. `//@end` keeps lines for a flag.
//!
//! Everything that went in is part of the kernel's key, so two kernels of different text never share a pipeline.

/// What turns a shader file into a kernel's text.
#[derive(Default)]
pub struct Parts<'a> {
    /// WGSL constants (`const NAME: u32 = value;`), also usable as an unroll count.
    pub constants: Vec<(&'static str, u32)>,
    /// Further text put in front, such as an `f32` constant or a struct.
    pub prelude: Vec<String>,
    /// `{{name}}` replacements, applied in order, so a snippet may use names that come later.
    pub snippets: Vec<(&'static str, &'a str)>,
    /// Flags for `//@if`.
    pub flags: Vec<&'static str>,
}

impl Parts<'_> {
    /// The complete WGSL text of `body`.
    ///
    /// # Panics
    /// When `body` has an unknown directive or an unbalanced block: an error of the shader file, which ships inside the
    /// program and is compiled by a test for every variant.
    pub fn compose(&self, body: &str) -> String {
        let mut text = String::new();
        for (name, value) in &self.constants {
            text.push_str(&format!("const {name}: u32 = {value}u;\n"));
        }
        for part in &self.prelude {
            text.push_str(part);
            text.push('\n');
        }
        text.push_str(body);
        for (name, snippet) in &self.snippets {
            text = text.replace(&format!("{{{{{name}}}}}"), snippet);
        }
        let lines: Vec<&str> = text.lines().collect();
        let mut out = String::with_capacity(text.len() * 2);
        let end = self.expand(&lines, 0, &[], true, &mut out);
        assert_eq!(end, lines.len(), "a shader has an `//@end` too many");
        out
    }

    /// Expands lines from `at` to the end of the block; returns the index of its `//@end` or `//@else`, or the length.
    fn expand(
        &self,
        lines: &[&str],
        mut at: usize,
        vars: &[(&str, u32)],
        keep: bool,
        out: &mut String,
    ) -> usize {
        while at < lines.len() {
            let Some(directive) = lines[at].trim_start().strip_prefix("//@") else {
                if keep {
                    let mut line = lines[at].to_string();
                    for (name, value) in vars {
                        line = line.replace(&format!("${name}"), &value.to_string());
                    }
                    out.push_str(&line);
                    out.push('\n');
                }
                at += 1;
                continue;
            };
            let words: Vec<&str> = directive.split_whitespace().collect();
            match words.as_slice() {
                ["unroll", name, count] => {
                    let count = self.count(count);
                    let mut end = self.expand(lines, at + 1, vars, false, out);
                    for index in 0..count {
                        let mut inner = vars.to_vec();
                        inner.push((name, index));
                        end = self.expand(lines, at + 1, &inner, keep, out);
                    }
                    at = end + 1;
                }
                ["if", flag] => {
                    let yes = self.flags.contains(flag);
                    let mut end = self.expand(lines, at + 1, vars, keep && yes, out);
                    if lines[end].trim() == "//@else" {
                        end = self.expand(lines, end + 1, vars, keep && !yes, out);
                    }
                    at = end + 1;
                }
                ["else"] | ["end"] => return at,
                _ => panic!("a shader has the unknown directive `{directive}`"),
            }
        }
        at
    }

    fn count(&self, text: &str) -> u32 {
        text.parse()
            .ok()
            .or_else(|| {
                self.constants
                    .iter()
                    .find(|(name, _)| *name == text)
                    .map(|c| c.1)
            })
            .unwrap_or_else(|| panic!("a shader unrolls by the unknown constant `{text}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_nest() {
        let parts = Parts {
            constants: vec![("ROWS", 2)],
            flags: vec!["NORM"],
            snippets: vec![("info", "7")],
            ..Default::default()
        };
        let text = parts.compose("//@unroll r ROWS\na$r {{info}}\n//@if NORM\nn$ru\n//@else\nno\n//@end\n//@unroll c 2\n$r-$c\n//@end\n//@end\nz\n//@if TOP_P\nq\n//@end");
        assert_eq!(
            text,
            "const ROWS: u32 = 2u;\na0 7\nn0u\n0-0\n0-1\na1 7\nn1u\n1-0\n1-1\nz\n"
        );
    }
}
