//! SPDX licence expressions (<https://spdx.github.io/spdx-spec/v2.3/SPDX-license-expressions/>), as far as crates use
//! them: names, `WITH` exceptions, `AND`, `OR`, parentheses, and the old `A/B` for `A OR B`.

use std::collections::BTreeSet;

/// Whether `expression` can be satisfied by licences that are `allowed`. A licence with an exception is a name of its
/// own, such as `Apache-2.0 WITH LLVM-exception`.
///
/// # Errors
/// What is wrong with the expression.
pub(super) fn allows(expression: &str, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, allowed };
    let allows = parser.any()?;
    match parser.words.first() {
        None => Ok(allows),
        Some(word) => Err(format!("`{word}` is one too many")),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a BTreeSet<String>,
}

impl<'a> Parser<'a> {
    /// `all (OR all)*`
    fn any(&mut self) -> Result<bool, String> {
        let mut allows = self.all()?;
        while self.skip("OR") {
            // Not `||`: the other side must be read either way.
            allows |= self.all()?;
        }
        Ok(allows)
    }

    /// `one (AND one)*`
    fn all(&mut self) -> Result<bool, String> {
        let mut allows = self.one()?;
        while self.skip("AND") {
            allows &= self.one()?;
        }
        Ok(allows)
    }

    /// `( any )`, or a name with or without an exception
    fn one(&mut self) -> Result<bool, String> {
        match self.next()? {
            "(" => {
                let allows = self.any()?;
                if self.skip(")") { Ok(allows) } else { Err("a `)` is missing".into()) }
            }
            word @ (")" | "AND" | "OR" | "WITH") => Err(format!("`{word}` where a licence should be")),
            name if self.skip("WITH") => {
                let exception = self.next()?;
                Ok(self.allowed.contains(&format!("{name} WITH {exception}")))
            }
            name => Ok(self.allowed.contains(name)),
        }
    }

    fn next(&mut self) -> Result<&'a str, String> {
        let (first, rest) = self.words.split_first().ok_or("it ends too early")?;
        self.words = rest;
        Ok(first)
    }

    fn skip(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_spdx_says() {
        let allowed = BTreeSet::from(["MIT", "Apache-2.0", "ISC"].map(String::from));
        for (expression, expected) in [
            ("MIT", Ok(true)),
            ("GPL-3.0-only", Ok(false)),
            ("GPL-3.0-only OR MIT", Ok(true)),
            ("MIT OR GPL-3.0-only", Ok(true)),
            ("MIT AND GPL-3.0-only", Ok(false)),
            ("Apache-2.0 AND ISC", Ok(true)),
            ("GPL-3.0-only AND MIT OR ISC", Ok(true)),
            ("GPL-3.0-only AND (MIT OR ISC)", Ok(false)),
            ("Unlicense/MIT", Ok(true)),
            ("Apache-2.0 WITH LLVM-exception", Ok(false)),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", Ok(true)),
            ("", Err(())),
            ("MIT OR", Err(())),
            ("MIT MIT", Err(())),
            ("(MIT", Err(())),
            ("AND", Err(())),
        ] {
            assert_eq!(allows(expression, &allowed).map_err(drop), expected, "{expression}");
        }
    }
}
