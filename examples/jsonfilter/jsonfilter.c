/* Selects values of a JSON document.
 *
 *   jsonfilter [-r] PATH     < document > selected values, one a line
 *
 * PATH is `.` for the whole document, or steps: `.name`, `["any name"]`, `[3]`, `[-1]` (from the end), `[]`
 * (every element or member). `.users[].name` prints the name of every user. A step that finds nothing
 * prints nothing, except that a missing member prints null, as jq does. -r prints strings without quotes.
 *
 * The parser is strict (RFC 8259: no comments, no trailing commas, no leading zeros, valid UTF-8, paired
 * surrogates, one value only) and never recurses deeper than DEPTH_MAX. Numbers keep the digits they came with.
 * Exit status: 0, or 1 for a document that is not JSON (line and column on stderr), or 2 for a bad PATH.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_MAX = 256,
    STEPS_MAX = 64,
    INPUT_BYTES_MAX = 64 << 20,
};

enum kind { NUL, BOOLEAN, NUMBER, STRING, ARRAY, OBJECT };

/* A string's bytes are its text unescaped; a number's are its digits as written. */
struct value {
    enum kind kind;
    bool truth;
    const char *text;
    size_t bytes;
    struct value *child; /* first element or member */
    struct value *next;  /* next sibling */
    struct value *name;  /* of a member: the string before the colon */
    size_t children;
};

enum step_kind { MEMBER, INDEX, EACH };

struct step {
    enum step_kind kind;
    char *name;
    size_t bytes;
    long index;
};

struct parser {
    const unsigned char *start, *at, *end;
    int depth;
};

static void die(int status, const char *what, const char *detail)
{
    fprintf(stderr, "jsonfilter: %s%s%s\n", what, *detail ? ": " : "", detail);
    exit(status);
}

static _Noreturn void malformed(const struct parser *parser, const char *what)
{
    size_t line = 1, column = 1;
    for (const unsigned char *byte = parser->start; byte < parser->at; byte++) {
        column = *byte == '\n' ? 1 : column + 1;
        line += *byte == '\n';
    }
    fflush(stdout);
    fprintf(stderr, "jsonfilter: line %zu, column %zu: %s\n", line, column, what);
    exit(1);
}

/* Values live until the program ends, so they are cut from blocks and never freed. */
static void *allocate(size_t bytes)
{
    static char *block;
    static size_t left;
    bytes = (bytes + 7) & ~(size_t)7;
    if (bytes > left) {
        left = bytes > (1 << 16) ? bytes : 1 << 16;
        block = malloc(left);
        if (block == NULL)
            die(1, "out of memory", "");
    }
    void *memory = block;
    block += bytes;
    left -= bytes;
    return memset(memory, 0, bytes);
}

static int peek(const struct parser *parser)
{
    return parser->at < parser->end ? *parser->at : -1;
}

static void skip_space(struct parser *parser)
{
    while (peek(parser) == ' ' || peek(parser) == '\t' || peek(parser) == '\n' || peek(parser) == '\r')
        parser->at++;
}

static unsigned hex4(struct parser *parser)
{
    unsigned code = 0;
    for (int i = 0; i < 4; i++, parser->at++) {
        int c = peek(parser);
        if (c >= '0' && c <= '9')
            code = code * 16 + (unsigned)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            code = code * 16 + (unsigned)((c | 32) - 'a' + 10);
        else
            malformed(parser, "\\u needs four hexadecimal digits");
    }
    return code;
}

static size_t put_utf8(char *out, unsigned code)
{
    if (code < 0x80)
        return out[0] = (char)code, 1;
    if (code < 0x800)
        return out[0] = (char)(0xc0 | code >> 6), out[1] = (char)(0x80 | (code & 63)), 2;
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 63));
        out[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 63));
    out[2] = (char)(0x80 | (code >> 6 & 63));
    out[3] = (char)(0x80 | (code & 63));
    return 4;
}

static size_t escape(struct parser *parser, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    int c = peek(parser);
    if (c != 'u') {
        const char *found = c > 0 ? strchr(from, c) : NULL;
        if (found == NULL)
            malformed(parser, "unknown escape");
        parser->at++;
        return *out = to[found - from], 1;
    }
    parser->at++;
    unsigned code = hex4(parser);
    if (code >= 0xdc00 && code <= 0xdfff)
        malformed(parser, "low surrogate without a high one");
    if (code >= 0xd800 && code <= 0xdbff) {
        if (parser->end - parser->at < 6 || parser->at[0] != '\\' || parser->at[1] != 'u')
            malformed(parser, "high surrogate without a low one");
        parser->at += 2;
        unsigned low = hex4(parser);
        if (low < 0xdc00 || low > 0xdfff)
            malformed(parser, "high surrogate without a low one");
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    return put_utf8(out, code);
}

/* Length of the valid UTF-8 sequence at the parser, or an error. */
static size_t utf8_sequence(const struct parser *parser)
{
    const unsigned char *at = parser->at;
    size_t left = (size_t)(parser->end - at);
    size_t bytes = *at >= 0xf0 ? 4 : *at >= 0xe0 ? 3 : 2;
    bool valid = *at >= 0xc2 && *at <= 0xf4 && left >= bytes;
    for (size_t i = 1; valid && i < bytes; i++)
        valid = (at[i] & 0xc0) == 0x80;
    if (valid && ((*at == 0xe0 && at[1] < 0xa0) || (*at == 0xed && at[1] > 0x9f) ||
                  (*at == 0xf0 && at[1] < 0x90) || (*at == 0xf4 && at[1] > 0x8f)))
        valid = false;
    if (!valid)
        malformed(parser, "invalid UTF-8");
    return bytes;
}

static struct value *string(struct parser *parser)
{
    struct value *value = allocate(sizeof *value);
    const unsigned char *close = ++parser->at;
    while (close < parser->end && *close != '"')
        close += *close == '\\' ? 2 : 1;
    if (close >= parser->end)
        malformed(parser, "string without an end");
    char *out = allocate((size_t)(close - parser->at) + 1); /* no escape is shorter than what it stands for */
    value->kind = STRING;
    value->text = out;
    while (parser->at < close) {
        int c = *parser->at;
        if (c < 0x20)
            malformed(parser, "control character in a string");
        if (c == '\\') {
            parser->at++;
            out += escape(parser, out);
            continue;
        }
        size_t bytes = c < 0x80 ? 1 : utf8_sequence(parser);
        memcpy(out, parser->at, bytes);
        out += bytes;
        parser->at += bytes;
    }
    parser->at++;
    value->bytes = (size_t)(out - value->text);
    return value;
}

static void digits(struct parser *parser)
{
    if (peek(parser) < '0' || peek(parser) > '9')
        malformed(parser, "a digit is missing");
    while (peek(parser) >= '0' && peek(parser) <= '9')
        parser->at++;
}

static struct value *number(struct parser *parser)
{
    struct value *value = allocate(sizeof *value);
    const unsigned char *start = parser->at;
    if (peek(parser) == '-')
        parser->at++;
    if (peek(parser) == '0')
        parser->at++;
    else
        digits(parser);
    if (peek(parser) == '.') {
        parser->at++;
        digits(parser);
    }
    if (peek(parser) == 'e' || peek(parser) == 'E') {
        parser->at++;
        if (peek(parser) == '+' || peek(parser) == '-')
            parser->at++;
        digits(parser);
    }
    value->kind = NUMBER;
    value->text = (const char *)start;
    value->bytes = (size_t)(parser->at - start);
    return value;
}

static struct value *parse(struct parser *parser);

static struct value *container(struct parser *parser, enum kind kind, int close)
{
    struct value *value = allocate(sizeof *value);
    struct value **link = &value->child;
    value->kind = kind;
    if (++parser->depth > DEPTH_MAX)
        malformed(parser, "nested too deeply");
    parser->at++;
    skip_space(parser);
    while (peek(parser) != close) {
        struct value *name = NULL;
        if (value->children > 0) {
            if (peek(parser) != ',')
                malformed(parser, kind == ARRAY ? "expected , or ]" : "expected , or }");
            parser->at++;
            skip_space(parser);
        }
        if (kind == OBJECT) {
            if (peek(parser) != '"')
                malformed(parser, "expected a member's name");
            name = string(parser);
            skip_space(parser);
            if (peek(parser) != ':')
                malformed(parser, "expected :");
            parser->at++;
        }
        struct value *child = parse(parser);
        child->name = name;
        *link = child;
        link = &child->next;
        value->children++;
        skip_space(parser);
    }
    parser->at++;
    parser->depth--;
    return value;
}

static struct value *word(struct parser *parser, const char *text, enum kind kind, bool truth)
{
    size_t bytes = strlen(text);
    if ((size_t)(parser->end - parser->at) < bytes || memcmp(parser->at, text, bytes) != 0)
        malformed(parser, "expected a value");
    parser->at += bytes;
    struct value *value = allocate(sizeof *value);
    value->kind = kind;
    value->truth = truth;
    return value;
}

static struct value *parse(struct parser *parser)
{
    skip_space(parser);
    switch (peek(parser)) {
    case '{':
        return container(parser, OBJECT, '}');
    case '[':
        return container(parser, ARRAY, ']');
    case '"':
        return string(parser);
    case 't':
        return word(parser, "true", BOOLEAN, true);
    case 'f':
        return word(parser, "false", BOOLEAN, false);
    case 'n':
        return word(parser, "null", NUL, false);
    case -1:
        malformed(parser, "the document ends where a value should be");
    default:
        if (peek(parser) != '-' && (peek(parser) < '0' || peek(parser) > '9'))
            malformed(parser, "expected a value");
        return number(parser);
    }
}

static void print_string(const struct value *value)
{
    putchar('"');
    for (size_t i = 0; i < value->bytes; i++) {
        unsigned char c = (unsigned char)value->text[i];
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c == '\n')
            fputs("\\n", stdout);
        else if (c == '\t')
            fputs("\\t", stdout);
        else if (c < 0x20 || c == 0x7f)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print(const struct value *value)
{
    switch (value->kind) {
    case NUL:
        fputs("null", stdout);
        break;
    case BOOLEAN:
        fputs(value->truth ? "true" : "false", stdout);
        break;
    case NUMBER:
        fwrite(value->text, 1, value->bytes, stdout);
        break;
    case STRING:
        print_string(value);
        break;
    case ARRAY:
    case OBJECT:
        putchar(value->kind == ARRAY ? '[' : '{');
        for (const struct value *child = value->child; child != NULL; child = child->next) {
            if (child != value->child)
                putchar(',');
            if (child->name != NULL) {
                print_string(child->name);
                putchar(':');
            }
            print(child);
        }
        putchar(value->kind == ARRAY ? ']' : '}');
    }
}

/* Of members with one name the last counts. */
static const struct value *member(const struct value *object, const struct step *step)
{
    static const struct value missing = {.kind = NUL};
    const struct value *found = &missing;
    for (const struct value *child = object->child; child != NULL; child = child->next)
        if (child->name->bytes == step->bytes && memcmp(child->name->text, step->name, step->bytes) == 0)
            found = child;
    return found;
}

static void select_from(const struct value *value, const struct step *steps, size_t count, bool raw)
{
    if (count == 0) {
        if (raw && value->kind == STRING)
            fwrite(value->text, 1, value->bytes, stdout);
        else
            print(value);
        putchar('\n');
        return;
    }
    const struct value *child = value->child;
    switch (steps->kind) {
    case MEMBER:
        if (value->kind == OBJECT)
            select_from(member(value, steps), steps + 1, count - 1, raw);
        break;
    case INDEX: {
        long index = steps->index < 0 ? steps->index + (long)value->children : steps->index;
        if (value->kind != ARRAY || index < 0 || index >= (long)value->children)
            break;
        while (index-- > 0)
            child = child->next;
        select_from(child, steps + 1, count - 1, raw);
        break;
    }
    case EACH:
        for (; child != NULL; child = child->next)
            select_from(child, steps + 1, count - 1, raw);
    }
}

static const char *bracket(const char *at, struct step *step)
{
    char *end = NULL;
    if (*at == '"') {
        const char *close = strchr(at + 1, '"');
        if (close == NULL || close[1] != ']')
            return NULL;
        *step = (struct step){.kind = MEMBER, .name = (char *)at + 1, .bytes = (size_t)(close - at - 1)};
        return close + 2;
    }
    if (*at == ']') {
        step->kind = EACH;
        return at + 1;
    }
    step->kind = INDEX;
    step->index = strtol(at, &end, 10);
    return end > at && *end == ']' ? end + 1 : NULL;
}

static size_t parse_path(const char *path, struct step *steps)
{
    size_t count = 0;
    const char *at = path;
    if (*at != '.' && *at != '[')
        die(2, "a path begins with . or [", path);
    if (strcmp(at, ".") == 0)
        return 0;
    while (*at != '\0') {
        if (count == STEPS_MAX)
            die(2, "a path has at most 64 steps", path);
        struct step *step = &steps[count];
        if (at[0] == '.' && at[1] == '[')
            at++;
        if (*at == '[') {
            at = bracket(at + 1, step);
            if (at == NULL)
                die(2, "in brackets goes nothing, a number or a \"name\"", path);
        } else {
            size_t bytes = strcspn(at + 1, ".[");
            if (*at != '.' || bytes == 0)
                die(2, "after a dot goes a name", path);
            *step = (struct step){.kind = MEMBER, .name = (char *)at + 1, .bytes = bytes};
            at += 1 + bytes;
        }
        count++;
    }
    return count;
}

static unsigned char *read_all(size_t *bytes)
{
    size_t room = 1 << 16, used = 0, got;
    unsigned char *input = malloc(room);
    while (input != NULL && (got = fread(input + used, 1, room - used, stdin)) > 0) {
        used += got;
        if (used > INPUT_BYTES_MAX)
            die(1, "the document is larger than 64 MiB", "");
        if (used == room)
            input = realloc(input, room *= 2);
    }
    if (input == NULL || ferror(stdin))
        die(1, "cannot read the document", "");
    *bytes = used;
    return input;
}

int main(int argc, char **argv)
{
    bool raw = argc == 3 && strcmp(argv[1], "-r") == 0;
    if (argc != 2 && !raw)
        die(2, "usage: jsonfilter [-r] PATH < document", "");
    struct step steps[STEPS_MAX];
    size_t count = parse_path(argv[argc - 1], steps);

    size_t bytes;
    unsigned char *input = read_all(&bytes);
    struct parser parser = {.start = input, .at = input, .end = input + bytes};
    struct value *document = parse(&parser);
    skip_space(&parser);
    if (parser.at != parser.end)
        malformed(&parser, "more follows after the document");
    select_from(document, steps, count, raw);
    if (fflush(stdout) != 0)
        die(1, "cannot write the output", "");
    return 0;
}
