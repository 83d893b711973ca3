"""Azure Attestation's policy language, versions 1.0, 1.1 and 1.2: from text to rules.

Source: Azure Attestation, "Claim and claim rules", "Policy version 1.0", "1.1", "1.2", "Claim rule functions", "How to
author an attestation policy"; the documents write `=` for `==` in conditions, leave out a rule's last semicolon and
spell keywords in either case, so all of that is accepted.
"""

import functools
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import LarkError, UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from typing_extensions import override

from strongroom.base.errors import FormatError
from strongroom.base.limits import LIMITS
from strongroom.policy.claims import ClaimValue, ValueType, value_type_of
from strongroom.policy.evidence_functions import ARGUMENTS, Function

MAX_RULES: Final = 500
MAX_NESTING: Final = 16
_INTEGER_BITS: Final = 63

_GRAMMAR: Final = r"""
start: _VERSION _EQUAL VERSION_NUMBER _SEMICOLON section*
section: SECTION _OPEN_BRACE rule* _CLOSE_BRACE _SEMICOLON
rule: [conditions] _ARROW action _SEMICOLON?
conditions: condition (_AND condition)*
condition: [NOT] [IDENTIFIER _COLON] _OPEN_BRACKET comparison (_COMMA comparison)* _CLOSE_BRACKET
comparison: PROPERTY OPERATOR expression
action: VERB _OPEN_PARENTHESIS [argument (_COMMA argument)*] _CLOSE_PARENTHESIS
argument: ARGUMENT _EQUAL expression -> value_argument
        | CLAIM _EQUAL IDENTIFIER -> claim_argument
expression: STRING -> string
          | INTEGER -> integer
          | BOOLEAN -> boolean
          | IDENTIFIER _DOT PROPERTY -> reference
          | FUNCTION _OPEN_PARENTHESIS [expression (_COMMA expression)*] _CLOSE_PARENTHESIS -> call

_VERSION: /version/i
VERSION_NUMBER: /[0-9]+\.[0-9]+/
SECTION: /(configurationrules|authorizationrules|issuancerules)(?![A-Za-z0-9_])/i
VERB: /(permit|deny|add|issueproperty|issue)(?![A-Za-z0-9_])/i
PROPERTY: /(valuetype|type|value|issuer)(?![A-Za-z0-9_])/i
ARGUMENT: /(type|value)(?![A-Za-z0-9_])/i
CLAIM: /claim(?![A-Za-z0-9_])/i
BOOLEAN.2: /(true|false)(?![A-Za-z0-9_])/i
FUNCTION.3: /(JmesPath|JsonToClaimValue|IsSubsetOf|AppendString|NegateBool|ContainsOnlyValue)(?![A-Za-z0-9_])/
NOT: "!"
OPERATOR: /==|!=|<=|>=|<|>|=/
IDENTIFIER: /[A-Za-z_][A-Za-z0-9_]*/
INTEGER: /-?[0-9]{1,19}(?![A-Za-z0-9_])/
STRING: /"(\\["\\]|[^"\\\x00-\x1f])*"/
_ARROW: "=>"
_AND: "&&"
_EQUAL: "="
_COLON: ":"
_COMMA: ","
_DOT: "."
_SEMICOLON: ";"
_OPEN_BRACE: "{"
_CLOSE_BRACE: "}"
_OPEN_BRACKET: "["
_CLOSE_BRACKET: "]"
_OPEN_PARENTHESIS: "("
_CLOSE_PARENTHESIS: ")"
%ignore /[ \t\r\n]+/
%ignore /\/\/[^\n]*/
"""

_WORDS: Final = {
    "_VERSION": "version",
    "VERSION_NUMBER": "a version such as 1.0",
    "SECTION": "configurationrules, authorizationrules or issuancerules",
    "VERB": "permit, deny, add, issue or issueproperty",
    "PROPERTY": "type, value, valueType or issuer",
    "ARGUMENT": "type or value",
    "CLAIM": "claim",
    "BOOLEAN": "true or false",
    "FUNCTION": "a function",
    "NOT": "!",
    "OPERATOR": "==, !=, <, <=, > or >=",
    "IDENTIFIER": "an identifier",
    "INTEGER": "an integer",
    "STRING": 'a "string"',
    "_ARROW": "=>",
    "_AND": "&&",
    "_EQUAL": "=",
    "_COLON": ":",
    "_COMMA": ",",
    "_DOT": ".",
    "_SEMICOLON": ";",
    "_OPEN_BRACE": "{",
    "_CLOSE_BRACE": "}",
    "_OPEN_BRACKET": "[",
    "_CLOSE_BRACKET": "]",
    "_OPEN_PARENTHESIS": "(",
    "_CLOSE_PARENTHESIS": ")",
    "$END": "the end of the policy",
}
_VERSION_FIRST: Final = re.compile(
    r"(?:[ \t\r\n]|//[^\n]*(?:\n|\Z))*version[ \t\r\n]*=[ \t\r\n]*([0-9]+\.[0-9]+)", re.IGNORECASE
)
_VERSIONS: Final = ("1.0", "1.1", "1.2")
_FIRST_WITH_FUNCTIONS: Final = "1.2"


class Property(StrEnum):
    """A property of a claim."""

    TYPE = "type"
    VALUE = "value"
    VALUE_TYPE = "valueType"
    ISSUER = "issuer"


class Operator(StrEnum):
    """How a property is compared."""

    EQUAL = "=="
    NOT_EQUAL = "!="
    LESS = "<"
    LESS_OR_EQUAL = "<="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="


class Verb(StrEnum):
    """What a rule does."""

    PERMIT = "permit"
    DENY = "deny"
    ADD = "add"
    ISSUE = "issue"
    ISSUE_PROPERTY = "issueproperty"


class Section(StrEnum):
    """The three lists of rules, in the order they are evaluated."""

    CONFIGURATION = "configurationrules"
    AUTHORIZATION = "authorizationrules"
    ISSUANCE = "issuancerules"


_ALLOWED_VERBS: Final = {
    Section.CONFIGURATION: {Verb.ISSUE_PROPERTY},
    Section.AUTHORIZATION: {Verb.PERMIT, Verb.DENY, Verb.ADD},
    Section.ISSUANCE: {Verb.ADD, Verb.ISSUE, Verb.ISSUE_PROPERTY},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A property of the claims that an earlier condition of the same rule found."""

    identifier: str
    property: Property

    @override
    def __str__(self) -> str:
        return f"{self.identifier}.{self.property}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A function and its arguments (version 1.2)."""

    function: Function
    arguments: "tuple[Expression, ...]"

    @override
    def __str__(self) -> str:
        return f"{self.function}(…)"


Expression: TypeAlias = ClaimValue | Reference | Call
NamedRules: TypeAlias = "tuple[Section, tuple[Rule, ...]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One demand on one property."""

    property: Property
    operator: Operator
    expected: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Holds when at least one claim meets every comparison; the identifier then stands for all that do.

    Attributes:
        negated: Holds when no claim does instead (version 1.2).
        identifier: How the rule refers to the claims found.
        comparisons: The value's last, so that it is compared only on claims that the others mean.
    """

    negated: bool = False
    identifier: str | None
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What happens when every condition holds: nothing but a verb, claims to copy, or a name and a value.

    Attributes:
        line: The line of the verb, for explanations.
        verb: What to do.
        claim: The identifier of the claims to copy.
        type: The new claim's name.
        value: The new claim's value.
    """

    line: int
    verb: Verb
    claim: str | None = None
    type: Expression | None = None
    value: Expression | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Conditions and the action they lead to."""

    conditions: tuple[Condition, ...]
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A parsed policy."""

    configuration: tuple[Rule, ...]
    authorization: tuple[Rule, ...]
    issuance: tuple[Rule, ...]


def parse_rules(text: str) -> Rules:
    """Read a policy's text.

    Args:
        text: The whole policy, at most `LIMITS.policy_text_bytes` characters.

    Returns:
        Its rules; every identifier in them is defined before it is used.

    Raises:
        FormatError: Not such a policy; the message names line, column and what was expected.
    """
    if len(text) > LIMITS.policy_text_bytes:
        raise FormatError("the policy is too long")
    version = _version(text)
    try:
        sections: list[NamedRules] = _parser().parse(text)  # type: ignore[assignment]
    except UnexpectedInput as error:
        raise FormatError(_describe(error)) from error
    except LarkError as error:
        raise FormatError("the text is not an attestation policy") from error
    return _checked(version, sections)


def _version(text: str) -> str:
    match = _VERSION_FIRST.match(text)
    if match is None:
        raise FormatError("line 1, column 1: a policy begins with version=1.0;")
    version = match[1]
    if version not in _VERSIONS:
        raise FormatError(f"policy version {version} does not exist: 1.0, 1.1 and 1.2 do")
    return version


def _describe(error: UnexpectedInput) -> str:
    expected: set[str] = set()
    found = "the end of the policy"
    if isinstance(error, UnexpectedToken) and error.token.type == "_OPEN_PARENTHESIS" and "_DOT" in error.expected:
        name = error.token_history[-1] if error.token_history else "this"
        return (
            f"line {error.line}, column {error.column - len(name)}: {name[:64]} is no function; "
            f"there are {', '.join(Function)}"
        )
    if isinstance(error, UnexpectedToken):
        expected = set(error.expected)
        found = repr(str(error.token)) if error.token.type != "$END" else found
    elif isinstance(error, UnexpectedCharacters):
        expected, found = set(error.allowed or ()), repr(error.char)
    words = " or ".join(sorted(_WORDS[name] for name in expected if name in _WORDS))
    return f"line {error.line}, column {error.column}: expected {words}, found {found[:64]}"


def _checked(version: str, sections: list[NamedRules]) -> Rules:
    rules = dict(sections)
    if len(rules) != len(sections):
        raise FormatError("a section stands twice in the policy")
    if Section.AUTHORIZATION not in rules:
        raise FormatError("the policy has no authorizationrules, so it could never permit anything")
    if version == "1.0" and Section.CONFIGURATION in rules:
        raise FormatError("configurationrules need policy version 1.1")
    if sum(len(each) for each in rules.values()) > MAX_RULES:
        raise FormatError(f"the policy has more than {MAX_RULES} rules")
    for section, each in rules.items():
        for rule in each:
            _check_rule(rule, section)
            if version != _FIRST_WITH_FUNCTIONS:
                _demand_old_rule(rule)
    return Rules(
        configuration=rules.get(Section.CONFIGURATION, ()),
        authorization=rules[Section.AUTHORIZATION],
        issuance=rules.get(Section.ISSUANCE, ()),
    )


def _check_rule(rule: Rule, section: Section) -> None:
    action, where = rule.action, f"the rule of line {rule.action.line}"
    if action.verb not in _ALLOWED_VERBS[section]:
        raise FormatError(f"{where}: {action.verb} is not allowed in {section}")
    _check_arguments(action, where)
    defined: set[str] = set()
    for condition in rule.conditions:
        for comparison in condition.comparisons:
            _check_comparison(comparison, defined, where)
        if condition.identifier is not None:
            if condition.negated:
                raise FormatError(f"{where}: {condition.identifier} would stand for claims that are not there")
            if condition.identifier in defined:
                raise FormatError(f"{where}: {condition.identifier} is defined twice")
            defined.add(condition.identifier)
    for expression in (action.type, action.value):
        if expression is not None:
            _check_expression(expression, defined, where)
    if action.claim is not None:
        _check_defined(action.claim, defined, where)


def _demand_old_rule(rule: Rule) -> None:
    where = f"the rule of line {rule.action.line}"
    expressions = [rule.action.type, rule.action.value]
    for condition in rule.conditions:
        if condition.negated:
            raise FormatError(f"{where}: ! needs policy version 1.2")
        expressions += [comparison.expected for comparison in condition.comparisons]
    if any(isinstance(expression, Call) for expression in expressions):
        raise FormatError(f"{where}: functions need policy version 1.2")


def _check_expression(expression: Expression, defined: set[str], where: str, *, depth: int = 0) -> None:
    if isinstance(expression, Reference):
        _check_defined(expression.identifier, defined, where)
    elif isinstance(expression, Call):
        wanted = ARGUMENTS[expression.function]
        if len(expression.arguments) != wanted:
            raise FormatError(f"{where}: {expression.function} takes {wanted} argument{'s' if wanted > 1 else ''}")
        if depth > MAX_NESTING:
            raise FormatError(f"{where}: functions are nested too deep")
        for argument in expression.arguments:
            _check_expression(argument, defined, where, depth=depth + 1)


def _check_arguments(action: Action, where: str) -> None:
    bare = action.claim is None and action.type is None and action.value is None
    copies = action.claim is not None and action.type is None and action.value is None
    makes = action.claim is None and action.type is not None and action.value is not None
    if action.verb in {Verb.PERMIT, Verb.DENY}:
        if not bare:
            raise FormatError(f"{where}: {action.verb} takes no arguments")
    elif not copies and not makes:
        raise FormatError(f"{where}: {action.verb} takes type and value, or claim")
    if action.type is not None and not isinstance(action.type, str | Reference | Call):
        raise FormatError(f"{where}: a claim's type is a string")


def _check_comparison(comparison: Comparison, defined: set[str], where: str) -> None:
    expected = comparison.expected
    if isinstance(expected, Reference | Call):
        _check_expression(expected, defined, where)
    elif comparison.property is not Property.VALUE and not isinstance(expected, str):
        raise FormatError(f"{where}: {comparison.property} is compared with a string")
    ordered = comparison.operator not in {Operator.EQUAL, Operator.NOT_EQUAL}
    if ordered and (
        comparison.property is not Property.VALUE
        or (not isinstance(expected, Reference | Call) and value_type_of(expected) is not ValueType.INTEGER)
    ):
        raise FormatError(f"{where}: only integers are compared with {comparison.operator}")


def _check_defined(identifier: str, defined: set[str], where: str) -> None:
    if identifier not in defined:
        raise FormatError(f"{where}: {identifier} is not defined by an earlier condition of the rule")


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=True, transformer=_Builder())


@v_args(inline=True)
class _Builder(Transformer[Token, list[NamedRules]]):
    """Makes the dataclasses above while the parser runs."""

    def start(self, _version: Token, *sections: NamedRules) -> list[NamedRules]:
        return list(sections)

    def section(self, name: Token, *rules: Rule) -> NamedRules:
        return Section(name.lower()), rules

    def rule(self, conditions: tuple[Condition, ...] | None, action: Action) -> Rule:
        return Rule(conditions=conditions or (), action=action)

    def conditions(self, *conditions: Condition) -> tuple[Condition, ...]:
        return conditions

    def condition(self, negation: Token | None, identifier: Token | None, *comparisons: Comparison) -> Condition:
        return Condition(
            negated=negation is not None,
            identifier=None if identifier is None else str(identifier),
            comparisons=tuple(sorted(comparisons, key=lambda each: each.property is Property.VALUE)),
        )

    def comparison(self, name: Token, operator: Token, expected: Expression) -> Comparison:
        sign = "==" if operator == "=" else str(operator)
        return Comparison(property=_property(name), operator=Operator(sign), expected=expected)

    def action(self, verb: Token, *arguments: tuple[str, Expression] | None) -> Action:
        line, given = verb.line or 0, dict(argument for argument in arguments if argument is not None)
        if len(given) != sum(argument is not None for argument in arguments):
            raise FormatError(f"the rule of line {line}: an argument stands twice")
        claim = given.get("claim")
        return Action(
            line=line,
            verb=Verb(verb.lower()),
            claim=claim if isinstance(claim, str) else None,
            type=given.get("type"),
            value=given.get("value"),
        )

    def value_argument(self, name: Token, value: Expression) -> tuple[str, Expression]:
        return name.lower(), value

    def claim_argument(self, _name: Token, identifier: Token) -> tuple[str, Expression]:
        return "claim", str(identifier)

    def string(self, token: Token) -> str:
        return re.sub(r"\\(.)", r"\1", token[1:-1])

    def integer(self, token: Token) -> int:
        value = int(token)
        if value.bit_length() > _INTEGER_BITS:
            raise FormatError(f"line {token.line}, column {token.column}: the integer has more than 64 bits")
        return value

    def boolean(self, token: Token) -> bool:
        return token.lower() == "true"

    def call(self, name: Token, *arguments: Expression | None) -> Call:
        given = tuple(argument for argument in arguments if argument is not None)
        return Call(function=Function(str(name)), arguments=given)

    def reference(self, identifier: Token, name: Token) -> Reference:
        return Reference(identifier=str(identifier), property=_property(name))


def _property(name: str) -> Property:
    return Property.VALUE_TYPE if name.lower() == "valuetype" else Property(name.lower())
