//! Points drawn as the scales of the parameters say.

use super::{Context, Sampler};
use crate::space::Point;
use crate::stream::Purpose;

/// Draws each configuration anew. No other sampler is as robust, and every other one should do better.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl Sampler for Random {
    fn suggest(&mut self, context: &Context<'_>) -> Option<Point> {
        let mut stream = context.stream(Purpose::Prior);
        let drawn = context.space.draw(&mut stream);
        Some(drawn.map_or_else(Vec::new, |configuration| context.space.point(&configuration)))
    }
}
