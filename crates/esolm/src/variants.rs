//! Choice of kernel variants: from a fixed table indexed by the kind of adapter and the number of rows, or forced by
//! the user. There is no autotuning, since variants add in different orders and a seed must always give the same text
//! on the same device. The only hardware measured is an H100; `esolm bench --kernels` shows where the table is wrong
//! for a device.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::adapter::AdapterKind;
use crate::error::EngineError;
use crate::kernels::attention::AttentionVariant;
use crate::kernels::product::ProductVariant;

/// Forced variants; `None` takes the table's choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variants {
    /// Product of at most [`FEW_ROWS`] rows.
    pub few: Option<ProductVariant>,
    /// Product of more rows.
    pub many: Option<ProductVariant>,
    /// Attention.
    pub attention: Option<AttentionVariant>,
}

/// Largest number of rows for which the variant for few rows is used.
pub const FEW_ROWS: usize = 16;

const ALLOWED: &str =
    "few=rows|split, many=rows|split|tile and attention=split|tile|rows, joined by commas";

impl FromStr for Variants {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let wrong = || EngineError::Option {
            option: "kernel variant",
            value: text.to_string(),
            allowed: ALLOWED,
        };
        let mut variants = Self::default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.split_once('=').ok_or_else(wrong)? {
                ("few", "rows") => variants.few = Some(ProductVariant::Rows),
                ("few", "split") => variants.few = Some(ProductVariant::Split),
                ("many", "rows") => variants.many = Some(ProductVariant::Rows),
                ("many", "split") => variants.many = Some(ProductVariant::Split),
                ("many", "tile") => variants.many = Some(ProductVariant::Tile),
                ("attention", "split") => variants.attention = Some(AttentionVariant::Split),
                ("attention", "tile") => variants.attention = Some(AttentionVariant::Tile),
                ("attention", "rows") => variants.attention = Some(AttentionVariant::Rows),
                _ => return Err(wrong()),
            }
        }
        Ok(variants)
    }
}

/// The variants in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// Product of few rows.
    pub few: ProductVariant,
    /// Product of many rows.
    pub many: ProductVariant,
    /// Minimum results, rows times columns, of a product that uses `many`: smaller ones would leave too many units of a device
    /// without a tile, and use [`ProductVariant::Split`].
    #[serde(default)]
    pub many_results: usize,
    /// Attention, if forced.
    pub attention: Option<AttentionVariant>,
    /// Attention for many rows; few rows use [`AttentionVariant::Split`].
    pub many_attention: AttentionVariant,
    /// Minimum rows of a pass that counts as having many.
    pub many_rows: usize,
    /// Minimum rows that one of its sequences must have.
    pub many_of_one: usize,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.many_results {
            0 => format!("few={:?}, many={:?}", self.few, self.many),
            results => format!(
                "few={:?}, many={:?} from {results} results on, else Split",
                self.few, self.many
            ),
        };
        let attention = match self.attention {
            Some(variant) => format!("{variant:?}"),
            None => format!(
                "{:?} from {} rows on, {} of a sequence, else Split",
                self.many_attention, self.many_rows, self.many_of_one
            ),
        };
        f.write_str(&format!("{text}, attention={attention}").to_lowercase())
    }
}

impl Chosen {
    /// The table: the variants for an adapter of `kind`, if none are forced.
    pub fn by_table(kind: AdapterKind) -> Self {
        match kind {
            // On a software adapter, workgroup memory and barriers make a product 6 to 13 times slower, and attention
            // up to 4 times once one invocation per row fills the vector lanes. Two cores need little parallelism.
            AdapterKind::Software => Self {
                few: ProductVariant::Rows,
                many: ProductVariant::Rows,
                many_results: 0,
                attention: None,
                many_attention: AttentionVariant::Rows,
                many_rows: 8,
                many_of_one: 8,
            },
            // Measured on an H100, whose 132 units need several workgroups each (docs/speed.md): tiles are faster from about 512
            // tiles of 64 x 64 results on, and in attention from about 640 rows on.
            AdapterKind::Discrete => Self {
                few: ProductVariant::Split,
                many: ProductVariant::Tile,
                many_results: 512 * 64 * 64,
                attention: None,
                many_attention: AttentionVariant::Tile,
                many_rows: 640,
                many_of_one: 8,
            },
            // Hardware needs thousands of invocations. With few rows they come from splitting the inner dimension and,
            // in attention, the prefix. With many rows, a tile reads each weight once per 64 rows, and keys and values
            // once per 16 rows of a sequence (for heads of 64). Nothing was measured on such an adapter.
            AdapterKind::Integrated | AdapterKind::Virtual | AdapterKind::Unknown => Self {
                few: ProductVariant::Split,
                many: ProductVariant::Tile,
                many_results: 0,
                attention: None,
                many_attention: AttentionVariant::Tile,
                many_rows: 64,
                many_of_one: 8,
            },
        }
    }

    /// These variants, with the forced ones substituted.
    pub fn with(self, forced: &Variants) -> Self {
        Self {
            few: forced.few.unwrap_or(self.few),
            many: forced.many.unwrap_or(self.many),
            many_results: match forced.many {
                Some(_) => 0,
                None => self.many_results,
            },
            attention: forced.attention.or(self.attention),
            ..self
        }
    }

    /// These variants, with all products in one.
    pub fn with_products(self, variant: ProductVariant) -> Self {
        self.with(&Variants {
            few: Some(variant),
            many: Some(variant),
            attention: None,
        })
    }

    /// The variant for a product of `rows` rows with a matrix of `columns` columns.
    pub fn product(&self, rows: usize, columns: usize) -> ProductVariant {
        if rows <= FEW_ROWS {
            self.few
        } else if rows * columns < self.many_results {
            ProductVariant::Split
        } else {
            self.many
        }
    }

    /// The number of rows that products of `rows` rows compute anyway, in whole blocks. Passes are padded to it, so that most
    /// repeat an earlier one and can be replayed.
    pub fn filled(&self, rows: usize) -> usize {
        let is_few = rows <= FEW_ROWS;
        match if is_few { self.few } else { self.many } {
            _ if rows == 0 => 0,
            // Blocks of up to eight rows, a power of two.
            ProductVariant::Split if is_few => rows.next_power_of_two(),
            ProductVariant::Split => rows.next_multiple_of(8),
            // Not padded: in a pass of few rows, the other kernels cost a software adapter as much as the products.
            ProductVariant::Rows if is_few => rows,
            ProductVariant::Rows => rows.next_multiple_of(4),
            ProductVariant::Tile => rows.next_multiple_of(32),
        }
    }

    /// The variant for attention in a pass of `rows` rows, at most `longest` of them in one sequence. Each query head
    /// that shares a key-value head counts as a row of its own.
    pub fn attention(&self, rows: usize, longest: usize) -> AttentionVariant {
        let is_many = rows >= self.many_rows && longest >= self.many_of_one;
        self.attention.unwrap_or(if is_many {
            self.many_attention
        } else {
            AttentionVariant::Split
        })
    }
}

/// Whether a product of `rows` rows normalises its input itself. With many rows, having every column group recompute
/// the moments costs more than a separate launch.
pub fn normalises(variant: ProductVariant, rows: usize) -> bool {
    rows <= FEW_ROWS && variant != ProductVariant::Tile
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A padded pass still has few rows, or many, and padding it again changes nothing.
    #[test]
    fn a_pass_is_filled_up_once() {
        for kind in [AdapterKind::Software, AdapterKind::Discrete] {
            for forced in [
                "",
                "few=rows",
                "few=split",
                "many=rows",
                "many=split",
                "many=tile",
            ] {
                let chosen = Chosen::by_table(kind).with(&forced.parse().unwrap());
                for rows in 0..200 {
                    let filled = chosen.filled(rows);
                    assert!(
                        (rows..rows + 32).contains(&filled),
                        "{forced} {rows}: {filled}"
                    );
                    assert_eq!(rows <= FEW_ROWS, filled <= FEW_ROWS, "{forced} {rows}");
                    assert_eq!(chosen.filled(filled), filled, "{forced} {rows}");
                }
            }
        }
    }
}
