//! Bitmap text for images: capitals, digits and a few signs of five by seven dots, enough to label
//! axes. Small letters are drawn as capitals, unknown characters as a box.

use crate::data::rgb::Rgb;

/// Dots of a glyph. A row of dots is a five-bit number whose highest bit is the leftmost dot.
const HEIGHT: usize = 7;
const WIDTH: usize = 5;
/// Pixels per dot, in each direction.
const DOT: usize = 2;
/// Distance from one letter to the next in pixels.
pub const ADVANCE: usize = (WIDTH + 1) * DOT;
/// Height of a letter in pixels.
pub const LETTER: usize = HEIGHT * DOT;

const UNKNOWN: [u8; HEIGHT] = [31, 17, 17, 17, 17, 17, 31];

#[rustfmt::skip]
const GLYPHS: [(char, [u8; HEIGHT]); 44] = [
    (' ', [0, 0, 0, 0, 0, 0, 0]), ('.', [0, 0, 0, 0, 0, 12, 12]), (',', [0, 0, 0, 0, 12, 4, 8]),
    (':', [0, 12, 12, 0, 12, 12, 0]), ('-', [0, 0, 0, 31, 0, 0, 0]), ('+', [0, 4, 4, 31, 4, 4, 0]),
    ('(', [2, 4, 8, 8, 8, 4, 2]), (')', [8, 4, 2, 2, 2, 4, 8]),
    ('0', [14, 17, 17, 17, 17, 17, 14]), ('1', [4, 12, 4, 4, 4, 4, 14]), ('2', [14, 17, 1, 2, 4, 8, 31]),
    ('3', [31, 2, 4, 2, 1, 17, 14]), ('4', [2, 6, 10, 18, 31, 2, 2]), ('5', [31, 16, 30, 1, 1, 17, 14]),
    ('6', [6, 8, 16, 30, 17, 17, 14]), ('7', [31, 1, 2, 4, 8, 8, 8]), ('8', [14, 17, 17, 14, 17, 17, 14]),
    ('9', [14, 17, 17, 15, 1, 2, 12]),
    ('A', [14, 17, 17, 31, 17, 17, 17]), ('B', [30, 17, 17, 30, 17, 17, 30]), ('C', [14, 17, 16, 16, 16, 17, 14]),
    ('D', [30, 17, 17, 17, 17, 17, 30]), ('E', [31, 16, 16, 30, 16, 16, 31]), ('F', [31, 16, 16, 30, 16, 16, 16]),
    ('G', [14, 17, 16, 23, 17, 17, 15]), ('H', [17, 17, 17, 31, 17, 17, 17]), ('I', [14, 4, 4, 4, 4, 4, 14]),
    ('J', [7, 2, 2, 2, 2, 18, 12]), ('K', [17, 18, 20, 24, 20, 18, 17]), ('L', [16, 16, 16, 16, 16, 16, 31]),
    ('M', [17, 27, 21, 21, 17, 17, 17]), ('N', [17, 25, 21, 19, 17, 17, 17]), ('O', [14, 17, 17, 17, 17, 17, 14]),
    ('P', [30, 17, 17, 30, 16, 16, 16]), ('Q', [14, 17, 17, 17, 21, 18, 13]), ('R', [30, 17, 17, 30, 20, 18, 17]),
    ('S', [15, 16, 16, 14, 1, 1, 30]), ('T', [31, 4, 4, 4, 4, 4, 4]), ('U', [17, 17, 17, 17, 17, 17, 14]),
    ('V', [17, 17, 17, 17, 17, 10, 4]), ('W', [17, 17, 17, 21, 21, 27, 17]), ('X', [17, 17, 10, 4, 10, 17, 17]),
    ('Y', [17, 17, 10, 4, 4, 4, 4]), ('Z', [31, 1, 2, 4, 8, 16, 31]),
];

/// Width of a text in pixels.
pub fn width(words: &str) -> usize {
    words.chars().count() * ADVANCE
}

/// Draws text with its upper left corner at (top, left), clipped to the image.
pub fn write(picture: &mut Rgb, words: &str, top: usize, left: usize, colour: [u8; 3]) {
    for (i, letter) in words.chars().enumerate() {
        let letter = letter.to_ascii_uppercase();
        let rows = GLYPHS.iter().find(|(c, _)| *c == letter).map_or(UNKNOWN, |(_, rows)| *rows);
        for (y, row) in rows.into_iter().enumerate() {
            for x in (0..WIDTH).filter(|x| row >> (WIDTH - 1 - x) & 1 == 1) {
                picture.fill(top + y * DOT, left + i * ADVANCE + x * DOT, DOT, DOT, colour);
            }
        }
    }
}
