//! Orders of models: the paper's beside the measured one, pair by pair.

/// One model with a figure of the paper and a measured one; lower is better.
#[derive(Debug, Clone)]
pub struct Ranked {
    /// Name in the text.
    pub title: String,
    /// The paper's figure.
    pub published: f64,
    /// The measured figure.
    pub measured: f64,
    /// Standard error of the measured figure.
    pub error: f64,
}

/// How two orders agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Titles, best first, by the paper.
    pub published: Vec<String>,
    /// Titles, best first, as measured.
    pub measured: Vec<String>,
    /// Pairs of models.
    pub pairs: usize,
    /// Pairs in another order than the paper's.
    pub differing: Vec<Differing>,
}

/// A pair that stands in another order than in the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct Differing {
    /// Better here, worse in the paper.
    pub better: String,
    /// Worse here, better in the paper.
    pub worse: String,
    /// Difference of the measured figures.
    pub by: f64,
    /// Standard error of the difference, as if both figures were independent. On the same text it is smaller.
    pub error: f64,
}

impl Agreement {
    /// Compares all pairs.
    pub fn of(ranked: &[Ranked]) -> Self {
        let order = |figure: fn(&Ranked) -> f64| {
            let mut sorted: Vec<&Ranked> = ranked.iter().collect();
            sorted.sort_by(|a, b| figure(a).total_cmp(&figure(b)));
            sorted.iter().map(|one| one.title.clone()).collect()
        };
        let mut pairs = 0;
        let mut differing = Vec::new();
        for (index, a) in ranked.iter().enumerate() {
            for b in &ranked[index + 1..] {
                pairs += 1;
                let (better, worse) = match a.measured <= b.measured {
                    true => (a, b),
                    false => (b, a),
                };
                if better.published > worse.published {
                    differing.push(Differing {
                        better: better.title.clone(),
                        worse: worse.title.clone(),
                        by: worse.measured - better.measured,
                        error: a.error.hypot(b.error),
                    });
                }
            }
        }
        Self {
            published: order(|one| one.published),
            measured: order(|one| one.measured),
            pairs,
            differing,
        }
    }

    /// The comparison as a paragraph.
    pub fn text(&self, what: &str, unit: &str) -> String {
        let mut text = format!(
            "Order by {what}, best first. Paper: {}. Here: {}. ",
            self.published.join(" < "),
            self.measured.join(" < ")
        );
        let agreeing = self.pairs - self.differing.len();
        if self.differing.is_empty() {
            return text + &format!("All {} pairs stand in the paper's order.", self.pairs);
        }
        text += &format!(
            "**{agreeing} of {} pairs stand in the paper's order.** Not so:",
            self.pairs
        );
        for pair in &self.differing {
            text += &format!(
                "\n* {} is better here than {}, by {:.3} {unit} (standard error at most {:.3}{})",
                pair.better,
                pair.worse,
                pair.by,
                pair.error,
                match pair.by < 2.0 * pair.error {
                    true => ", so the two are not told apart",
                    false => "",
                }
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(figures: &[(&str, f64, f64)]) -> Vec<Ranked> {
        figures
            .iter()
            .map(|&(title, published, measured)| Ranked {
                title: title.into(),
                published,
                measured,
                error: 0.03,
            })
            .collect()
    }

    #[test]
    fn the_same_order_agrees_everywhere() {
        let agreement = Agreement::of(&ranked(&[
            ("c", 3.0, 30.0),
            ("a", 1.0, 10.0),
            ("b", 2.0, 20.0),
        ]));
        assert_eq!(agreement.pairs, 3);
        assert!(agreement.differing.is_empty());
        assert_eq!(agreement.published, ["a", "b", "c"]);
        assert!(agreement.text("it", "nats").contains("All 3 pairs"));
    }

    #[test]
    fn exchanged_pairs_are_named_with_their_distance() {
        let agreement = Agreement::of(&ranked(&[
            ("a", 1.0, 1.5),
            ("b", 2.0, 1.0),
            ("c", 3.0, 1.05),
        ]));
        let found: Vec<(&str, &str)> = agreement
            .differing
            .iter()
            .map(|pair| (pair.better.as_str(), pair.worse.as_str()))
            .collect();
        assert_eq!(found, [("b", "a"), ("c", "a")]);
        assert_eq!(agreement.measured, ["b", "c", "a"]);
        let text = agreement.text("loss", "nats");
        assert!(text.contains("1 of 3 pairs"), "{text}");
        assert!(
            text.contains("b is better here than a, by 0.500 nats"),
            "{text}"
        );
        assert!(!text.contains("not told apart"));
    }

    #[test]
    fn small_differences_are_called_small() {
        let agreement = Agreement::of(&ranked(&[("a", 1.0, 1.05), ("b", 2.0, 1.0)]));
        assert!(agreement.text("loss", "nats").contains("not told apart"));
    }
}
