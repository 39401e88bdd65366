//! How close an order of reveals is to left-to-right: the paper's local and global AR-ness.
//!
//! Source: arXiv 2506.20639, section 4. Positions that one step reveals together have no order
//! among themselves; they are counted from left to right, as the text is read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// The `k` that the paper looks at.
pub const KS: std::ops::RangeInclusive<usize> = 1..=8;

/// Local AR-ness at `k`: the share of reveals that, with the `k` reveals before them, form a run of
/// neighbours from left to right. Reveals with fewer than `k` before them are not counted.
///
/// `steps` lists the positions that each step reveals. `None` if no reveal counts.
#[must_use]
pub fn local(steps: &[Vec<usize>], k: usize) -> Option<f64> {
    let order = in_order(steps);
    let windows = order.windows(k + 1);
    let is_run = |window: &&[usize]| window.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    share(windows.clone().filter(is_run).count(), windows.len())
}

/// Global AR-ness at `k`: the share of reveals that took one of the `k` left-most masks.
///
/// `steps` lists the positions that each step reveals; the masks are those positions. `None` if
/// there are none.
#[must_use]
pub fn global(steps: &[Vec<usize>], k: usize) -> Option<f64> {
    let order = in_order(steps);
    let mut reveals_left = BTreeMap::new();
    for position in &order {
        *reveals_left.entry(position).or_insert(0) += 1;
    }
    let mut leftmost = 0;
    for position in &order {
        leftmost += usize::from(reveals_left.keys().take(k).any(|mask| *mask == position));
        if let Entry::Occupied(mut left) = reveals_left.entry(position) {
            *left.get_mut() -= 1;
            if *left.get() == 0 {
                left.remove();
            }
        }
    }
    share(leftmost, order.len())
}

fn in_order(steps: &[Vec<usize>]) -> Vec<usize> {
    let sorted = steps.iter().map(|step| {
        let mut step = step.clone();
        step.sort_unstable();
        step
    });
    sorted.flatten().collect()
}

fn share(part: usize, all: usize) -> Option<f64> {
    (all > 0).then(|| part as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_a_step(order: &[usize]) -> Vec<Vec<usize>> {
        order.iter().map(|&position| vec![position]).collect()
    }

    #[test]
    fn left_to_right_scores_one_and_right_to_left_nothing_locally() {
        let forward: Vec<usize> = (0..20).collect();
        let backward: Vec<usize> = (0..20).rev().collect();
        for k in KS {
            assert_eq!(local(&one_a_step(&forward), k), Some(1.0));
            assert_eq!(global(&one_a_step(&forward), k), Some(1.0));
            assert_eq!(local(&one_a_step(&backward), k), Some(0.0));
            // Only the last k reveals find k masks or fewer.
            assert_eq!(global(&one_a_step(&backward), k), Some(k as f64 / 20.0));
        }
    }

    #[test]
    fn worked_by_hand() {
        // Reveals 2, 3, 0, 1, 4. Pairs: 23 yes, 30 no, 01 yes, 14 no. Triples: none.
        let steps = one_a_step(&[2, 3, 0, 1, 4]);
        assert_eq!(local(&steps, 1), Some(0.5));
        assert_eq!(local(&steps, 2), Some(0.0));
        assert_eq!(local(&steps, 4), Some(0.0));
        assert_eq!(local(&steps, 5), None);
        // Rank among the masks left: 2 is third, then 3 third, 0, 1 and 4 first.
        assert_eq!(global(&steps, 1), Some(0.6));
        assert_eq!(global(&steps, 2), Some(0.6));
        assert_eq!(global(&steps, 3), Some(1.0));
        // 1 is revealed again at the end, as a token that is predicted anew.
        assert_eq!(global(&one_a_step(&[1, 0, 2, 1]), 1), Some(0.5));
        // A gap that no step fills is no mask: 0 then 2 is not a run, but is left-most.
        let gap = one_a_step(&[0, 2]);
        assert_eq!(local(&gap, 1), Some(0.0));
        assert_eq!(global(&gap, 1), Some(1.0));
    }

    #[test]
    fn a_step_counts_from_left_to_right() {
        let steps = vec![vec![1, 0], vec![3, 2]];
        assert_eq!(local(&steps, 3), Some(1.0));
        assert_eq!(global(&steps, 1), Some(1.0));
        assert_eq!((local(&[], 1), global(&[], 1)), (None, None));
    }
}
