/* Python's door: every argument is an integer, addresses and the bits of floats included; native.py makes them. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <string.h>

#include "step.h"

enum { MAX_ARGS = 24 };

static int parse(PyObject *const *args, Py_ssize_t given, Py_ssize_t wanted, int64_t *out) {
    if (given != wanted) {
        PyErr_Format(PyExc_TypeError, "expected %zd integers, got %zd arguments", wanted, given);
        return 0;
    }
    for (Py_ssize_t i = 0; i < wanted; i++) {
        out[i] = PyLong_AsLongLong(args[i]);
        if (out[i] == -1 && PyErr_Occurred()) return 0;
    }
    return 1;
}

static const Ops *ops_of(int64_t isa) {
    const Ops *ops = shira_decoder_ops((int)isa);
    if (!ops) PyErr_SetString(PyExc_ValueError, "this machine does not have that instruction set");
    return ops;
}

static void *pointer(int64_t address) { return (void *)(uintptr_t)address; }

static float float_of(int64_t bits) {
    const uint32_t low = (uint32_t)bits;
    float value;
    memcpy(&value, &low, sizeof value);
    return value;
}

static Ragged ragged_of(const int64_t *a) {
    const Ragged ragged = {.blocks = pointer(a[0]), .num_blocks = a[1], .page_numbers = pointer(a[2])};
    return ragged;
}

static Pages pages_of(const int64_t *a) {
    const Pages pages = {
        .keys = pointer(a[0]), .values = pointer(a[1]), .num_heads = a[2], .head_dim = a[3], .value_dim = a[4]};
    return pages;
}

#define ARGS PyObject *self, PyObject *const *args, Py_ssize_t given
#define BEGIN(wanted)                               \
    int64_t a[MAX_ARGS];                            \
    (void)self;                                     \
    if (!parse(args, given, wanted, a)) return NULL; \
    const Ops *ops = ops_of(a[0]);                  \
    if (!ops) return NULL;                          \
    const int threads = a[1] > 0 ? (int)a[1] : 1;

static PyObject *py_supports(PyObject *self, PyObject *isa) {
    (void)self;
    const long value = PyLong_AsLong(isa);
    if (value == -1 && PyErr_Occurred()) return NULL;
    return PyBool_FromLong(shira_decoder_ops((int)value) != NULL);
}

static PyObject *py_use_pool(PyObject *self, PyObject *address) {
    (void)self;
    const long long run = PyLong_AsLongLong(address);
    if (run == -1 && PyErr_Occurred()) return NULL;
    shira_use_pool((RunTasks *)(uintptr_t)run);
    Py_RETURN_NONE;
}

static PyObject *py_add_norm(ARGS) {
    BEGIN(9)
    const AddNorm norm = {.dtype = a[2],
                          .x = pointer(a[3]),
                          .update = pointer(a[4]),
                          .weight = pointer(a[5]),
                          .num_rows = a[6],
                          .width = a[7],
                          .eps = float_of(a[8])};
    Py_BEGIN_ALLOW_THREADS
    shira_add_norm(ops, &norm, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_rope_and_store(ARGS) {
    BEGIN(20)
    const Rope rope = {.dtype = a[2],
                       .q = pointer(a[3]),
                       .k = pointer(a[4]),
                       .v = pointer(a[5]),
                       .num_query_heads = a[6],
                       .q_norm = pointer(a[7]),
                       .q_eps = float_of(a[8]),
                       .k_norm = pointer(a[9]),
                       .k_eps = float_of(a[10]),
                       .turns = pointer(a[11]),
                       .ragged = ragged_of(a + 12),
                       .pages = pages_of(a + 15)};
    Py_BEGIN_ALLOW_THREADS
    shira_rope_and_store(ops, &rope, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_attend(ARGS) {
    BEGIN(14)
    const Attention attention = {.dtype = a[2],
                                 .q = pointer(a[3]),
                                 .num_query_heads = a[4],
                                 .scale = float_of(a[5]),
                                 .ragged = ragged_of(a + 6),
                                 .pages = pages_of(a + 9)};
    int has_memory;
    Py_BEGIN_ALLOW_THREADS
    has_memory = shira_attend(ops, &attention, threads);
    Py_END_ALLOW_THREADS
    if (!has_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *py_gate(ARGS) {
    BEGIN(7)
    const Gate gate = {
        .dtype = a[2], .gate = pointer(a[3]), .up = pointer(a[4]), .num_rows = a[5], .width = a[6]};
    Py_BEGIN_ALLOW_THREADS
    shira_gate(ops, &gate, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    {"supports", py_supports, METH_O, NULL},
    {"use_pool", py_use_pool, METH_O, NULL},
    METHOD(add_norm),
    METHOD(rope_and_store),
    METHOD(attend),
    METHOD(gate),
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
