/* Where a script's time goes, for whoever asked: looks at its stack while it runs.
 *
 * The engine calls a handler after every so many calls and turns of loops, at points at which it could as well throw. So the
 * handler may look at the stack as an error does when it is made: through Error.prepareStackTrace, whose frames know their
 * functions. What the script has put there is not called, and is there again afterwards.
 */
#include <string.h>

#include "engine.h"

/* Most bytes of a function's name and of a file's. */
#define TEXT_BYTES_MAX 64

/* Line, column, two lengths, two texts. */
#define FRAME_BYTES_MAX (2 * sizeof(uint32_t) + 2 + 2 * TEXT_BYTES_MAX)

static bool profiling;
static bool looking;
static double next_look_us;

/* The engine's own functions, taken before the script began. */
static struct {
    JSValue error;
    JSValue get_prepare, set_prepare;
    JSValue get_limit, set_limit;
    JSValue function_of_frame, name_of_frame;
    JSValue file_of_function, line_of_function, column_of_function;
    JSValue collect;
} engines;

static uint8_t sample[sizeof(uint32_t) + DEBUG_FRAMES_MAX * FRAME_BYTES_MAX];
static uint32_t sample_bytes;

static void put(const void *bytes, uint32_t length)
{
    if (length > sizeof sample - sample_bytes)
        return;
    memcpy(sample + sample_bytes, bytes, length);
    sample_bytes += length;
}

static void put_number(uint32_t number)
{
    put(&number, sizeof number);
}

/* Its length and the beginning of a text; nothing of what is none. Takes the value. */
static void put_text(JSValue value)
{
    size_t length = 0;
    const char *text = JS_IsString(value) ? JS_ToCStringLen(context, &length, value) : NULL;
    if (!text)
        length = 0;
    if (length > TEXT_BYTES_MAX) {
        length = TEXT_BYTES_MAX;
        /* Not in the middle of a character. */
        while (length && (text[length] & 0xc0) == 0x80)
            length--;
    }
    uint8_t counted = (uint8_t)length;
    put(&counted, 1);
    put(text, counted);
    JS_FreeCString(context, text);
    JS_FreeValue(context, value);
}

static JSValue ask(JSValueConst function, JSValueConst of)
{
    return JS_Call(context, function, of, 0, NULL);
}

static void put_place(JSValue value)
{
    uint32_t number = 0;
    if (JS_IsNumber(value))
        JS_ToUint32(context, &number, value);
    JS_FreeValue(context, value);
    put_number(number);
}

/* Whether a function is the script's: C code has no file, and ours say whose they are. */
static bool is_users(JSValueConst file)
{
    const char *text = JS_IsString(file) ? JS_ToCString(context, file) : NULL;
    bool users = text && strncmp(text, "stockade:", 9) != 0;
    JS_FreeCString(context, text);
    return users;
}

static void put_frame(JSValueConst frame)
{
    JSValue function = ask(engines.function_of_frame, frame);
    JSValue file = ask(engines.file_of_function, function);
    if (is_users(file)) {
        put_place(ask(engines.line_of_function, function));
        put_place(ask(engines.column_of_function, function));
        put_text(ask(engines.name_of_frame, frame));
        put_text(file);
    } else {
        JS_FreeValue(context, file);
    }
    JS_FreeValue(context, function);
}

/* Error.prepareStackTrace(error, frames): puts the script's own frames into the sample, innermost first. */
static JSValue collect(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    int64_t length = 0;
    if (argc < 2 || JS_GetLength(c, argv[1], &length) < 0)
        return JS_UNDEFINED;
    uint32_t kind = length < DEBUG_FRAMES_MAX ? LOOK_STACK : LOOK_STACK_CUT;
    memcpy(sample, &kind, sizeof kind);
    for (int64_t at = 0; at < length; at++) {
        JSValue frame = JS_GetPropertyInt64(c, argv[1], at);
        put_frame(frame);
        JS_FreeValue(c, frame);
    }
    return JS_UNDEFINED;
}

static bool set(JSValueConst setter, JSValueConst value)
{
    JSValue done = JS_Call(context, setter, engines.error, 1, &value);
    bool well = !JS_IsException(done);
    JS_FreeValue(context, done);
    return well;
}

/* Has `prepare` called with the frames that there are now. */
static void with_frames(JSValueConst prepare)
{
    JSValue theirs = ask(engines.get_prepare, engines.error);
    JSValue limit = ask(engines.get_limit, engines.error);
    bool other_limit = JS_VALUE_GET_TAG(limit) != JS_TAG_INT || JS_VALUE_GET_INT(limit) != DEBUG_FRAMES_MAX;
    if (!JS_IsException(theirs) && !JS_IsException(limit) && set(engines.set_prepare, prepare)) {
        /* Only where it must be: a limit may be an object, whose number is the script's to say. */
        if (!other_limit || set(engines.set_limit, JS_NewInt32(context, DEBUG_FRAMES_MAX)))
            JS_FreeValue(context, JS_NewError(context));
        if (other_limit)
            set(engines.set_limit, limit);
        set(engines.set_prepare, theirs);
    }
    JS_FreeValue(context, limit);
    JS_FreeValue(context, theirs);
}

/* The script is to see nothing of it: neither an exception nor that there was no memory for a look. */
static void look_at_stack(void)
{
    JSValue pending = JS_HasException(context) ? JS_GetException(context) : JS_UNINITIALIZED;
    bool refused = host_memory_refused;
    with_frames(engines.collect);
    if (JS_HasException(context))
        JS_FreeValue(context, JS_GetException(context));
    host_memory_refused = refused;
    if (!JS_IsUninitialized(pending))
        JS_Throw(context, pending);
}

static void send(void)
{
    uint32_t wait_us = 0;
    host_call(OPERATION_LOOK, sample, sample_bytes, &wait_us, sizeof wait_us);
    next_look_us = host_clock(CLOCK_THAT_ONLY_GOES_ON) + wait_us;
}

static int interrupted(JSRuntime *r, void *opaque)
{
    host_turns = host_poll();
    if (looking || host_clock(CLOCK_THAT_ONLY_GOES_ON) < next_look_us)
        return 0;
    looking = true;
    sample_bytes = 0;
    put_number(LOOK_STACK);
    look_at_stack();
    send();
    looking = false;
    return 0;
}

void profile_mark(enum look kind)
{
    if (!profiling)
        return;
    sample_bytes = 0;
    put_number(kind);
    send();
}

/* The functions behind a property that is read and set by functions; `setter` may be NULL. */
static bool accessor(JSValueConst object, const char *name, JSValue *getter, JSValue *setter)
{
    JSPropertyDescriptor found;
    JSAtom atom = JS_NewAtom(context, name);
    bool there = JS_GetOwnProperty(context, &found, object, atom) > 0 && (found.flags & JS_PROP_GETSET);
    JS_FreeAtom(context, atom);
    if (!there)
        return false;
    *getter = found.getter;
    if (setter)
        *setter = found.setter;
    else
        JS_FreeValue(context, found.setter);
    return true;
}

/* Error.prepareStackTrace(error, frames): takes what frames can be asked. */
static JSValue learn(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    JSValue frame = argc < 2 ? JS_UNDEFINED : JS_GetPropertyInt64(c, argv[1], 0);
    engines.function_of_frame = JS_GetPropertyStr(c, frame, "getFunction");
    engines.name_of_frame = JS_GetPropertyStr(c, frame, "getFunctionName");
    JS_FreeValue(c, frame);
    return JS_UNDEFINED;
}

/* A function, so that there is a frame to learn from: its own. */
static JSValue probe(JSContext *c, JSValueConst this, int argc, JSValueConst *argv)
{
    JSValue prepare = JS_NewCFunction(c, learn, "", 2);
    with_frames(prepare);
    JS_FreeValue(c, prepare);
    return JS_UNDEFINED;
}

bool profile_begin(void)
{
    JSValue global = JS_GetGlobalObject(context);
    engines.error = JS_GetPropertyStr(context, global, "Error");
    JS_FreeValue(context, global);
    engines.collect = JS_NewCFunction(context, collect, "", 2);
    engines.function_of_frame = engines.name_of_frame = JS_UNDEFINED;
    JSValue function = JS_NewCFunction(context, probe, "", 0);
    JSValue functions = JS_GetPrototype(context, function);
    if (accessor(engines.error, "prepareStackTrace", &engines.get_prepare, &engines.set_prepare) &&
        accessor(engines.error, "stackTraceLimit", &engines.get_limit, &engines.set_limit) &&
        accessor(functions, "fileName", &engines.file_of_function, NULL) &&
        accessor(functions, "lineNumber", &engines.line_of_function, NULL) &&
        accessor(functions, "columnNumber", &engines.column_of_function, NULL))
        JS_FreeValue(context, ask(function, JS_UNDEFINED));
    JS_FreeValue(context, functions);
    JS_FreeValue(context, function);
    profiling = JS_IsFunction(context, engines.function_of_frame) && JS_IsFunction(context, engines.name_of_frame);
    if (profiling) {
        JS_SetInterruptHandler(runtime, interrupted, NULL);
        profile_mark(LOOK_STACK);
    }
    return profiling;
}
