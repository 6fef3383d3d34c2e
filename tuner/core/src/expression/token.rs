//! The words of an expression.

use super::ExpressionError;
use crate::space::Value;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Value(Value),
    /// A name that was written plainly, so that it may be a word of the language.
    Word(String),
    /// A name in backquotes.
    Name(String),
    Sign(&'static str),
    End,
}

/// Longer signs stand before their beginnings.
const SIGNS: [&str; 17] = ["**", "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "(", ")", ","];
const BRACKETS: [&str; 3] = ["[", "]", "!"];

/// Splits a text into its words, each with its place.
pub(super) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ExpressionError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (token, length) =
            if first.is_ascii_digit() || (first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
                number(rest, at)?
            } else if let '\'' | '"' | '`' = first {
                quoted(rest, first, at)?
            } else if first.is_alphabetic() || first == '_' {
                let length = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(rest.len());
                (Token::Word(rest[..length].to_owned()), length)
            } else if let Some(sign) = SIGNS.iter().chain(&BRACKETS).find(|sign| rest.starts_with(**sign)) {
                (Token::Sign(sign), sign.len())
            } else {
                let hint = if first == '=' { "; to compare write ==" } else { "" };
                return Err(ExpressionError { at, message: format!("`{first}` is no part of an expression{hint}") });
            };
        found.push((at, token));
        at += length;
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), ExpressionError> {
    let mut length = 0;
    let mut before = ' ';
    for c in rest.chars() {
        let sign_of_exponent = matches!(c, '+' | '-') && matches!(before, 'e' | 'E');
        if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || sign_of_exponent) {
            break;
        }
        before = c;
        length += c.len_utf8();
    }
    let written = &rest[..length];
    let plain = written.replace('_', "");
    let value = plain.parse().map(Value::Int).or_else(|_| plain.parse().map(Value::Float));
    match value {
        Ok(value) => Ok((Token::Value(value), length)),
        Err(_) => Err(ExpressionError { at, message: format!("`{written}` is no number") }),
    }
}

fn quoted(rest: &str, quote: char, at: usize) -> Result<(Token, usize), ExpressionError> {
    let mut text = String::new();
    let mut escaped = false;
    for (place, c) in rest.char_indices().skip(1) {
        if !escaped && c == '\\' && quote != '`' {
            escaped = true;
            continue;
        }
        if !escaped && c == quote {
            let token = if quote == '`' { Token::Name(text) } else { Token::Value(Value::Text(text)) };
            return Ok((token, place + 1));
        }
        escaped = false;
        text.push(c);
    }
    Err(ExpressionError { at, message: format!("the {quote} that begins here has no end") })
}
