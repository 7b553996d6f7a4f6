/* One job of one JavaScript engine, from request to reply.
 *
 *   _initialize ─ js_init ─┬─ js_reserve ─ js_run ─ reply
 *                          └ everything up to here is the same for every job, and happens when the engine is built:
 *                            see build/snapshot.rs. What a job must have of its own is made in js_run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

JSRuntime *runtime;
JSContext *context;
struct ours ours;

static struct reply reply;
static bool debugs;
static bool profiles;
static bool keeps;
static void *reserve;
bool import_refused;

extern void __wasm_call_ctors(void);

/* Named here, or the linker would run the constructors at every call of every export. */
EXPORT("_initialize") void initialize(void);
EXPORT("js_abi") uint32_t js_abi(void);
EXPORT("js_init") int32_t js_init(void);
EXPORT("js_reserve") void *js_reserve(uint32_t bytes);
EXPORT("js_run") const struct reply *js_run(const uint8_t *bytes, uint32_t length);

void initialize(void)
{
    __wasm_call_ctors();
}

uint32_t js_abi(void)
{
    return ABI_VERSION;
}

static JSModuleDef *refuse_import(JSContext *c, const char *name, void *opaque)
{
    import_refused = true;
    JS_ThrowTypeError(c, IMPORT_REFUSED "%.200s': a job is one source, and there are no modules to import", name);
    return NULL;
}

/* Evaluates our own scripts; each is a function that is given the natives and what the ones before it made. */
static bool load_scripts(void)
{
    JSValue arguments[2] = {natives_object(context), JS_NewObjectProto(context, JS_NULL)};
    bool loaded = true;
    for (const struct script *script = scripts; loaded && script->name; script++) {
        JSValue function =
            JS_Eval(context, script->text, script->length, script->name, JS_EVAL_TYPE_GLOBAL | JS_EVAL_FLAG_STRICT);
        JSValue done = JS_Call(context, function, JS_UNDEFINED, 2, (JSValueConst *)arguments);
        loaded = !JS_IsException(done);
        JS_FreeValue(context, done);
        JS_FreeValue(context, function);
    }
    ours.show = JS_GetPropertyStr(context, arguments[1], "show");
    ours.output = JS_GetPropertyStr(context, arguments[1], "output");
    ours.awaited = JS_GetPropertyStr(context, arguments[1], "awaited");
    ours.next_timer = JS_GetPropertyStr(context, arguments[1], "nextTimer");
    ours.run_timer = JS_GetPropertyStr(context, arguments[1], "runTimer");
    ours.begin = JS_GetPropertyStr(context, arguments[1], "begin");
    JS_FreeValue(context, arguments[0]);
    JS_FreeValue(context, arguments[1]);
    return loaded;
}

/* Makes the engine, once; 0 when that went well. */
int32_t js_init(void)
{
    if (context)
        return 1;
    runtime = JS_NewRuntime2(&host_memory, NULL);
    if (!runtime)
        return 2;
    JS_SetMaxStackSize(runtime, STACK_BYTES);
    JS_UpdateStackTop(runtime);
    context = JS_NewContext(runtime);
    if (!context || JS_AddIntrinsicDOMException(context) < 0)
        return 3;
    JS_SetModuleLoaderFunc(runtime, NULL, refuse_import, NULL);
    waiting_install();
    if (!load_scripts())
        return 4;
    JS_RunGC(runtime);
    reserve = heap_settle();
    return reserve ? 0 : 5;
}

/* Room for a request; NULL when there is none. */
void *js_reserve(uint32_t bytes)
{
    return malloc(bytes);
}

static uint32_t number_at(const uint8_t *bytes)
{
    uint32_t number;
    memcpy(&number, bytes, sizeof number);
    return number;
}

/* Version, form, the lengths of the parts; then the parts, each with a NUL behind it that its length leaves out. */
static bool read_request(struct request *request, const uint8_t *bytes, uint32_t length)
{
    uint32_t heading = (2 + PARTS) * sizeof(uint32_t);
    if (!bytes || length < heading || number_at(bytes) != ABI_VERSION)
        return false;
    uint32_t form = number_at(bytes + sizeof(uint32_t));
    request->form = form & ~(uint32_t)(FORM_DEBUG | FORM_PROFILE | FORM_KEEP);
    debugs = form & FORM_DEBUG;
    profiles = form & FORM_PROFILE;
    keeps = form & FORM_KEEP;
    uint64_t at = heading;
    for (int part = 0; part < PARTS; part++) {
        uint64_t part_length = number_at(bytes + (2 + part) * sizeof(uint32_t));
        if (at + part_length >= length || bytes[at + part_length] != 0)
            return false;
        request->parts[part] = (struct text){(const char *)bytes + at, (uint32_t)part_length};
        at += part_length + 1;
    }
    return at == length && request->form <= FORM_CHECK_MODULE;
}

/* Tells whoever debugs where the job is and how much memory the engine holds. */
static void pass(enum phase phase)
{
    if (!debugs)
        return;
    JSMemoryUsage usage;
    JS_ComputeMemoryUsage(runtime, &usage);
    uint32_t request[2] = {phase, (uint32_t)usage.malloc_size};
    host_call(OPERATION_PHASE, request, sizeof request, NULL, 0);
}

/* Frames that are left out are of no use to whoever debugs. */
static void keep_deep_stacks(void)
{
    JSValue global = JS_GetGlobalObject(context);
    JSValue error = JS_GetPropertyStr(context, global, "Error");
    JS_SetPropertyStr(context, error, "stackTraceLimit", JS_NewInt32(context, DEBUG_FRAMES_MAX));
    JS_FreeValue(context, error);
    JS_FreeValue(context, global);
}

/* Seeds the job's chance and makes its context. */
static JSValue begin(const struct request *request)
{
    const struct text *about = &request->parts[PART_CONTEXT];
    host_random_begin();
    JSValue text = JS_NewStringLen(context, about->start, about->length);
    JSValue made = JS_Call(context, ours.begin, JS_UNDEFINED, 1, (JSValueConst *)&text);
    JS_FreeValue(context, text);
    return made;
}

static bool read_input(const struct request *request, JSValue *input)
{
    const struct text *text = &request->parts[PART_INPUT];
    *input = JS_UNDEFINED;
    if (text->length == 0)
        return true;
    *input = JS_ParseJSON(context, text->start, text->length, "input");
    if (!JS_IsException(*input))
        return true;
    struct text file = {"input", 5};
    failure_describe(&reply, ENDED_INPUT_NOT_JSON, &file);
    /* The script has not begun: it is not the script that went too deep. */
    if (reply.ending == ENDED_STACK_OVERFLOW)
        failure_say(&reply, ENDED_INPUT_NOT_JSON, "RangeError", "the input is nested too deep to be read");
    return false;
}

/* Serialises a job's result. Nothing at all reads as null. */
static void finish(JSValue value)
{
    JSValue json = JS_JSONStringify(context, value, JS_UNDEFINED, JS_UNDEFINED);
    if (JS_IsException(json)) {
        failure_describe(&reply, ENDED_OUTPUT_NOT_JSON, NULL);
    } else if (JS_IsUndefined(json) && !JS_IsUndefined(value)) {
        const char *what = JS_IsSymbol(value) ? "the result is a symbol, which JSON does not have"
                                              : "the result is a function, which JSON does not have";
        failure_say(&reply, ENDED_OUTPUT_NOT_JSON, "TypeError", what);
    } else {
        size_t length = 4;
        const char *text = JS_IsUndefined(json) ? "null" : JS_ToCStringLen(context, &length, json);
        if (text)
            /* Never freed: the host reads it, and then the engine is gone. */
            reply.value = (struct text){text, (uint32_t)length};
        else
            failure_describe(&reply, ENDED_OUTPUT_NOT_JSON, NULL);
    }
    JS_FreeValue(context, json);
    JS_FreeValue(context, value);
}

static JSValue compile(const struct request *request, int flags)
{
    const struct text *source = &request->parts[PART_SOURCE];
    return JS_Eval(context, source->start, source->length, request->parts[PART_NAME].start,
                   flags | JS_EVAL_FLAG_COMPILE_ONLY);
}

/* What a source compiled to, as the host kept it: whether it awaits comes last. An exception that is not to be told is what
 * comes of anything else: then the source is there. */
static JSValue revive(const struct request *request, bool module, bool *awaits)
{
    const struct text *kept = &request->parts[PART_COMPILED];
    *awaits = kept->start[kept->length - 1];
    JSValue compiled =
        JS_ReadObject(context, (const uint8_t *)kept->start, kept->length - 1, JS_READ_OBJ_BYTECODE);
    if (!JS_IsException(compiled) && JS_VALUE_GET_TAG(compiled) == (module ? JS_TAG_MODULE : JS_TAG_FUNCTION_BYTECODE) &&
        (!module || JS_ResolveModule(context, compiled) == 0))
        return compiled;
    JS_FreeValue(context, compiled);
    JS_FreeValue(context, JS_GetException(context));
    return JS_EXCEPTION;
}

/* Arrays that there are: compiling makes none but the texts of tagged templates. */
static int64_t arrays(void)
{
    JSMemoryUsage usage;
    JS_ComputeMemoryUsage(runtime, &usage);
    return usage.array_count;
}

/* Hands the host what a source compiled to. Without it the source is compiled again. Tagged templates are read back unfrozen,
 * which shows: a source that has any, more arrays than there were, is not kept. */
static void keep(JSValueConst compiled, bool awaits, int64_t arrays_before)
{
    size_t length = 0;
    uint8_t *longer = NULL;
    if (arrays() == arrays_before) {
        uint8_t *bytes = JS_WriteObject(context, &length, compiled, JS_WRITE_OBJ_BYTECODE);
        longer = bytes ? js_realloc(context, bytes, length + 1) : NULL;
        if (longer) {
            longer[length] = awaits;
        } else {
            js_free(context, bytes);
            JS_FreeValue(context, JS_GetException(context));
        }
    }
    /* Told in any case, and before any of the script has run: the host takes no other, whatever an input does to the script. */
    host_call(OPERATION_COMPILED, longer, longer ? (uint32_t)length + 1 : 0, NULL, 0);
    js_free(context, longer);
}

static void define_global(const char *name, JSValue value)
{
    JSValue global = JS_GetGlobalObject(context);
    JS_DefinePropertyValueStr(context, global, name, value, JS_PROP_C_W_E);
    JS_FreeValue(context, global);
}

/* Compiles a script. One that mentions `await` is taken to await, unless it makes sense only as one in which that is a name
 * like any other. */
static JSValue compile_script(const struct request *request, bool *awaits)
{
    const struct text *source = &request->parts[PART_SOURCE];
    *awaits = memmem(source->start, source->length, "await", 5) != NULL;
    JSValue compiled = compile(request, *awaits ? JS_EVAL_FLAG_ASYNC : JS_EVAL_TYPE_GLOBAL);
    if (!*awaits || !JS_IsException(compiled))
        return compiled;
    JSValue error = JS_GetException(context);
    compiled = compile(request, JS_EVAL_TYPE_GLOBAL);
    *awaits = false;
    if (JS_IsException(compiled)) {
        JS_FreeValue(context, JS_GetException(context));
        JS_Throw(context, error);
    } else {
        JS_FreeValue(context, error);
    }
    return compiled;
}

/* The value of the last expression: what a script that awaits resolves to is an object around it. */
static JSValue run_compiled(JSValue compiled, bool awaits, bool *never)
{
    JSValue value = JS_EvalFunction(context, compiled);
    if (JS_IsException(value))
        return value;
    if (awaits) {
        JSValue settled = waiting_settle(value, never);
        if (JS_IsException(settled) || *never)
            return settled;
        value = JS_GetPropertyStr(context, settled, "value");
        JS_FreeValue(context, settled);
    }
    return value;
}

static void never_settled(void)
{
    failure_say(&reply, ENDED_NEVER_SETTLED, "Error",
                "the result is a promise that nothing is left to settle: no timer, no microtask");
}

static void conclude(JSValue value, bool never, const struct text *file)
{
    pass(PHASE_RAN);
    if (JS_IsException(value))
        failure_describe(&reply, ENDED_THROWN, file);
    else if (never)
        never_settled();
    else if (waiting_unhandled() < 0)
        failure_describe(&reply, ENDED_THROWN, file);
    else
        finish(value);
}

/* `input` in, `output` or the last expression out; everything that was begun is waited for. */
static void run_script(const struct request *request, JSValue compiled, bool awaits)
{
    const struct text *file = &request->parts[PART_NAME];
    JSValue input;
    if (!read_input(request, &input))
        return;
    define_global("input", input);
    define_global("output", JS_UNDEFINED);
    define_global("ctx", begin(request));
    bool never = false;
    JSValue last = run_compiled(compiled, awaits, &never);
    if (!JS_IsException(last) && !never && waiting_run(JS_UNDEFINED, true) < 0)
        last = JS_EXCEPTION;
    if (JS_IsException(last) || never) {
        conclude(last, never, file);
        return;
    }
    JSValue output = JS_Call(context, ours.output, JS_UNDEFINED, 0, NULL);
    conclude(waiting_settle(JS_IsUndefined(output) ? last : output, &never), never, file);
}

/* The exported function to call. */
static JSValue find_entry(const struct request *request, JSModuleDef *module)
{
    const char *name = request->parts[PART_ENTRY].start;
    JSValue exports = JS_GetModuleNamespace(context, module);
    JSValue entry = JS_GetPropertyStr(context, exports, name);
    JS_FreeValue(context, exports);
    if (JS_IsException(entry)) {
        failure_describe(&reply, ENDED_THROWN, &request->parts[PART_NAME]);
    } else if (!JS_IsFunction(context, entry)) {
        char message[256];
        snprintf(message, sizeof message, "the module exports no function '%.150s'", name);
        failure_say(&reply, ENDED_NO_ENTRY, "TypeError", message);
        JS_FreeValue(context, entry);
        entry = JS_EXCEPTION;
    }
    return entry;
}

/* The module's own code, then the entry with input and context; what that returns is waited for, nothing else. */
static void run_module(const struct request *request, JSValue compiled)
{
    const struct text *file = &request->parts[PART_NAME];
    JSModuleDef *module = JS_VALUE_GET_PTR(compiled);
    JSValue arguments[2];
    if (!read_input(request, &arguments[0]))
        return;
    arguments[1] = begin(request);
    bool never = false;
    JSValue evaluated = waiting_settle(JS_EvalFunction(context, compiled), &never);
    if (JS_IsException(evaluated) || never) {
        conclude(evaluated, never, file);
        return;
    }
    JSValue entry = find_entry(request, module);
    if (JS_IsException(entry))
        return;
    JSValue result = JS_Call(context, entry, JS_UNDEFINED, 2, (JSValueConst *)arguments);
    conclude(waiting_settle(result, &never), never, file);
}

/* Whether a source may be a module: nothing else imports or exports. */
static bool has_module_words(const struct text *source)
{
    return memmem(source->start, source->length, "import", 6) || memmem(source->start, source->length, "export", 6);
}

/* Says why a source does not compile. Of a script that would be a module, that it is one. */
static void not_compiled(const struct request *request)
{
    const struct text *file = &request->parts[PART_NAME];
    failure_describe(&reply, import_refused ? ENDED_IMPORT_REFUSED : ENDED_SYNTAX, file);
    if (request->form != FORM_SCRIPT || reply.ending != ENDED_SYNTAX ||
        !has_module_words(&request->parts[PART_SOURCE]))
        return;
    JSValue compiled = compile(request, JS_EVAL_TYPE_MODULE);
    if (!JS_IsException(compiled)) {
        failure_say(&reply, ENDED_SYNTAX, "SyntaxError", "this is a module: name the function to call with --entry");
        JS_FreeValue(context, compiled);
    } else if (import_refused) {
        reply = (struct reply){0};
        failure_describe(&reply, ENDED_IMPORT_REFUSED, file);
    }
}

static void run(const struct request *request)
{
    bool module = request->form == FORM_MODULE || request->form == FORM_CHECK_MODULE;
    bool awaits = false;
    JSValue compiled = JS_EXCEPTION;
    if (request->parts[PART_COMPILED].length > 0)
        compiled = revive(request, module, &awaits);
    if (JS_IsException(compiled)) {
        int64_t arrays_before = keeps ? arrays() : 0;
        compiled = module ? compile(request, JS_EVAL_TYPE_MODULE) : compile_script(request, &awaits);
        if (JS_IsException(compiled)) {
            not_compiled(request);
            return;
        }
        if (keeps)
            keep(compiled, awaits, arrays_before);
    }
    pass(PHASE_COMPILED);
    if (request->form == FORM_CHECK_SCRIPT || request->form == FORM_CHECK_MODULE) {
        JS_FreeValue(context, compiled);
        return;
    }
    if (module)
        run_module(request, compiled);
    else
        run_script(request, compiled, awaits);
}

int host_turns = 1;

static int interrupted(JSRuntime *r, void *opaque)
{
    host_turns = host_poll();
    return 0;
}

/* Runs the one job of this engine. */
const struct reply *js_run(const uint8_t *bytes, uint32_t length)
{
    struct request request;
    if (!context || !reserve || !read_request(&request, bytes, length)) {
        failure_say(&reply, ENDED_BAD_REQUEST, "Error", "the engine was asked in a way it does not know");
        return &reply;
    }
    JS_UpdateStackTop(runtime);
    host_memory_refused = false;
    JS_SetInterruptHandler(runtime, interrupted, NULL);
    if (debugs)
        keep_deep_stacks();
    if (profiles && !profile_begin()) {
        failure_say(&reply, ENDED_BAD_REQUEST, "Error", "this engine's stack cannot be looked at: there is no profile to be had");
        return &reply;
    }
    pass(PHASE_READY);
    run(&request);
    pass(PHASE_ENDED);
    return &reply;
}

void engine_release_reserve(void)
{
    free(reserve);
    reserve = NULL;
}
