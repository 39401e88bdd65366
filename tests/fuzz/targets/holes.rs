//! A text with markers of holes.
#![no_main]

use diffucoder::infill::Template;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(template) = Template::with_markers(bytes.to_vec()) {
        let holes = template.holes().len();
        assert_eq!(template.texts().len(), holes + 1);
        let (filled, places) = template.fill(&vec!["x"; holes]);
        assert_eq!(places.len(), holes);
        assert!(places.iter().all(|place| filled.get(place.clone()).is_some()));
    }
});
