//! Rotary position embedding, the half-rotation kind (`rotate_half` in the reference).

/// The angles of the longest canvas so far.
pub(super) struct Rope {
    inv_freq: Vec<f32>,     // [E / 2]
    cos_sin: Vec<[f32; 2]>, // [positions, E / 2]
}

impl Rope {
    pub fn new(inv_freq: Vec<f32>) -> Self {
        Self {
            inv_freq,
            cos_sin: Vec::new(),
        }
    }

    /// Makes the angles of the positions `0..len`, in float32 as the reference does.
    pub fn reserve(&mut self, len: usize) {
        for position in self.cos_sin.len() / self.inv_freq.len()..len {
            let angles = self.inv_freq.iter().map(|freq| position as f32 * freq);
            self.cos_sin
                .extend(angles.map(|angle| [angle.cos(), angle.sin()]));
        }
    }

    /// Rotates a head `[E]` and scales it.
    pub fn rotate(&self, position: usize, scale: f32, head: &mut [f32]) {
        let halves = head.split_at_mut(self.inv_freq.len());
        self.rotate_halves(position, scale, halves);
    }

    /// Rotates a head `[E]` that is rotated already on by so many positions. The angles of as many
    /// have to be there.
    pub fn turn(&self, by: isize, head: &mut [f32]) {
        let (first, second) = head.split_at_mut(self.inv_freq.len());
        // The other way round, the halves change places.
        let halves = match by < 0 {
            true => (second, first),
            false => (first, second),
        };
        self.rotate_halves(by.unsigned_abs(), 1.0, halves);
    }

    fn rotate_halves(
        &self,
        position: usize,
        scale: f32,
        (first, second): (&mut [f32], &mut [f32]),
    ) {
        let half = self.inv_freq.len();
        let angles = &self.cos_sin[position * half..][..half];
        for ((a, b), [cos, sin]) in first.iter_mut().zip(second).zip(angles) {
            (*a, *b) = (scale * (*a * cos - *b * sin), scale * (*b * cos + *a * sin));
        }
    }
}
