//! Windows that open before the one before them is full: d3LLM's policy, worked out by hand.

use super::*;

/// Entropies of six tokens, one of them `margin` logits above the others: 0.5 is 1.77 nats, 2 is
/// 1.32, 3 is 0.82, 4 is 0.42 and 9 is 0.01.
#[test]
fn windows_open_beside_each_other_and_an_end_closes_what_is_behind_it() {
    let margins = [
        0.0, 9.0, 0.5, 2.0, 3.0, 9.0, 3.0, 4.0, 0.5, 4.0, 9.0, 9.0, 2.0,
    ];
    let mut tokens = [1; 13];
    tokens[10] = STOP;
    let mut model = Scripted::new(&tokens, &margins);
    let settings = Settings {
        ending: Ending::AtStop(vec![STOP]),
        decoding: Decoding {
            window: Some(4),
            ..Decoding::d3llm()
        },
        ..settings(1)
    };
    let (done, record) = fill(&mut model, 12, &settings);
    assert_eq!(
        record.reveals(),
        [
            vec![1],            // the first window alone
            vec![5, 7, 4],      // a tenth of it is there; 4 is its surest, the others are sure
            vec![10, 11, 9, 3], // the third opens, and the text ends in it at 10
            vec![2],            // nothing behind 10 is predicted any more
            vec![6],            // the second is now the first with masks
            vec![8],
        ]
    );
    assert_eq!(model.calls, [4, 7, 8, 3, 2, 1]);
    assert_eq!(
        done.canvas.generated(),
        [1, 1, 1, 1, 1, 1, 1, 1, 1, STOP, STOP, STOP]
    );
    assert_eq!(done.rows, 6 * 13, "everything is computed at each step");
}

#[test]
fn one_token_at_least_where_nothing_is_sure() {
    // Half of the first window is there after the first pass.
    for (opens_at, calls) in [
        (0.1, [2, 3, 2, 1]),
        (0.5, [2, 3, 2, 1]),
        (0.6, [2, 1, 2, 1]),
    ] {
        let mut model = Scripted::new(&[1, 2, 3, 4, 1], &[0.0, 0.5, 3.0, 2.0, 1.0]);
        let settings = Settings {
            ending: Ending::AtStop(Vec::new()),
            decoding: Decoding {
                window: Some(2),
                opens_at: Some(opens_at),
                ..Decoding::d3llm()
            },
            ..settings(1)
        };
        let (_, record) = fill(&mut model, 4, &settings);
        assert_eq!(record.reveals(), [[2], [1], [3], [4]]);
        assert_eq!(model.calls, calls, "{opens_at}");
    }
}
