//! From text to tree, by the precedence of operators.

use super::token::{Token, tokens};
use super::{ExpressionError, Form, Function, Node, Operator};
use crate::space::{Value, nearest};

/// Deeper expressions are refused: each level is a call.
const DEPTH: usize = 64;
/// How tightly `not` and the minus sign hold what comes after them.
const NOT: u8 = 3;
const MINUS: u8 = 7;

pub(super) fn parse(text: &str) -> Result<Node, ExpressionError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, next: 0, depth: 0 };
    let root = parser.expression(0)?;
    match parser.peek() {
        (_, Token::End) => Ok(root),
        (at, token) => Err(wrong(*at, &format!("expected an operator or the end, found {}", shown(token)))),
    }
}

struct Parser<'tokens> {
    tokens: &'tokens [(usize, Token)],
    next: usize,
    depth: usize,
}

fn wrong(at: usize, message: &str) -> ExpressionError {
    ExpressionError { at, message: message.to_owned() }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Value(value) => format!("`{value}`"),
        Token::Word(name) | Token::Name(name) => format!("`{name}`"),
        Token::Sign(sign) => format!("`{sign}`"),
        Token::End => "the end".to_owned(),
    }
}

impl<'tokens> Parser<'tokens> {
    fn peek(&self) -> &'tokens (usize, Token) {
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> &'tokens (usize, Token) {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn is_next(&mut self, wanted: &str) -> bool {
        let found = match &self.peek().1 {
            Token::Sign(sign) => *sign == wanted,
            Token::Word(word) => word == wanted,
            Token::Value(_) | Token::Name(_) | Token::End => false,
        };
        if found {
            self.next += 1;
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), ExpressionError> {
        let (at, token) = self.peek();
        if self.is_next(sign) { Ok(()) } else { Err(wrong(*at, &format!("expected `{sign}`, found {}", shown(token)))) }
    }

    /// An expression whose operators hold at least as tightly as `least`.
    fn expression(&mut self, least: u8) -> Result<Node, ExpressionError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(wrong(self.peek().0, &format!("the expression is nested more than {DEPTH} deep")));
        }
        let mut left = self.operand()?;
        let mut compared = false;
        while let Some((operator, tightness, words)) = self.operator() {
            if tightness < least {
                break;
            }
            let at = self.peek().0;
            if tightness == 4 && std::mem::replace(&mut compared, true) {
                return Err(wrong(at, "comparisons cannot be chained: join two of them with `and`"));
            }
            self.next += words;
            // A power of a power is read from the right.
            let right = self.expression(if operator == Operator::Power { tightness } else { tightness + 1 })?;
            left = Node { at: left.at, form: Form::Two(operator, Box::new(left), Box::new(right)) };
        }
        self.depth -= 1;
        Ok(left)
    }

    /// The operator that comes next, how tightly it holds, and how many words it is made of.
    fn operator(&self) -> Option<(Operator, u8, usize)> {
        let two = self.tokens.get(self.next + 1).map(|(_, token)| token);
        let text = match &self.peek().1 {
            Token::Sign(sign) => *sign,
            Token::Word(word) => word.as_str(),
            Token::Value(_) | Token::Name(_) | Token::End => return None,
        };
        Some(match text {
            "or" | "||" => (Operator::Or, 1, 1),
            "and" | "&&" => (Operator::And, 2, 1),
            "==" => (Operator::Equal, 4, 1),
            "!=" => (Operator::NotEqual, 4, 1),
            "<" => (Operator::Less, 4, 1),
            "<=" => (Operator::LessEqual, 4, 1),
            ">" => (Operator::Greater, 4, 1),
            ">=" => (Operator::GreaterEqual, 4, 1),
            "in" => (Operator::In, 4, 1),
            "not" if two == Some(&Token::Word("in".to_owned())) => (Operator::NotIn, 4, 2),
            "+" => (Operator::Add, 5, 1),
            "-" => (Operator::Subtract, 5, 1),
            "*" => (Operator::Multiply, 6, 1),
            "/" => (Operator::Divide, 6, 1),
            "%" => (Operator::Remainder, 6, 1),
            "**" => (Operator::Power, 8, 1),
            _ => return None,
        })
    }

    fn operand(&mut self) -> Result<Node, ExpressionError> {
        let (at, token) = self.take();
        let at = *at;
        let form = match token {
            Token::Value(value) => Form::Value(value.clone()),
            Token::Name(name) => Form::Name(name.clone()),
            Token::Sign("-") => Form::Minus(Box::new(self.expression(MINUS)?)),
            Token::Sign("!") => Form::Not(Box::new(self.expression(NOT)?)),
            Token::Sign("(") => {
                let inner = self.expression(0)?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => Form::List(self.list("]")?),
            Token::Word(word) => self.word(at, word)?,
            Token::Sign(_) | Token::End => {
                return Err(wrong(at, &format!("expected a value or a parameter, found {}", shown(token))));
            }
        };
        Ok(Node { at, form })
    }

    fn word(&mut self, at: usize, word: &str) -> Result<Form, ExpressionError> {
        match word {
            "true" | "True" => return Ok(Form::Value(Value::Bool(true))),
            "false" | "False" => return Ok(Form::Value(Value::Bool(false))),
            "not" => return Ok(Form::Not(Box::new(self.expression(NOT)?))),
            "and" | "or" | "in" => {
                return Err(wrong(at, &format!("expected a value or a parameter, found `{word}`")));
            }
            _ => {}
        }
        if !self.is_next("(") {
            return Ok(Form::Name(word.to_owned()));
        }
        let known = Function::ALL.iter().find(|(name, _)| *name == word);
        let Some((_, function)) = known else {
            let names = Function::ALL.iter().map(|(name, _)| *name);
            let hint = nearest(word, names).map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default();
            return Err(wrong(at, &format!("there is no function `{word}`{hint}")));
        };
        let given = self.list(")")?;
        let several = matches!(function, Function::Max | Function::Min);
        if given.is_empty() || (!several && given.len() > 1) {
            let wanted = if several { "at least one value" } else { "one value" };
            return Err(wrong(at, &format!("`{word}` takes {wanted}, {} given", given.len())));
        }
        Ok(Form::Call(*function, given))
    }

    fn list(&mut self, end: &str) -> Result<Vec<Node>, ExpressionError> {
        let mut nodes = Vec::new();
        while !self.is_next(end) {
            if !nodes.is_empty() {
                let (at, token) = self.peek();
                if !self.is_next(",") {
                    return Err(wrong(*at, &format!("expected `,` or `{end}`, found {}", shown(token))));
                }
            }
            nodes.push(self.expression(0)?);
        }
        Ok(nodes)
    }
}
