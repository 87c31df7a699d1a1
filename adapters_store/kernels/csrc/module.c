/* Python's door: arguments are integers, addresses included, and packed tables; native.py and rows_native.py check
 * them all. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "linear.h"
#include "model.h"
#include "pool.h"
#include "rows.h"

enum { MAX_ARGS = 16 };

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
    const Ops *ops = shira_ops((int)isa);
    if (!ops) PyErr_SetString(PyExc_ValueError, "this machine does not have that instruction set");
    return ops;
}

static void *pointer(int64_t address) { return (void *)(uintptr_t)address; }

static Plan plan_of(const int64_t *a) {
    const Plan plan = {.visits = pointer(a[0]), .num_visits = a[1], .indices = pointer(a[2])};
    return plan;
}

static PyObject *none_or(Status status) {
    if (status == SHIRA_NO_MEMORY) return PyErr_NoMemory();
    if (status == SHIRA_OVERLAP) {
        PyErr_SetString(PyExc_ValueError, "weights of the two bound index sets overlap without being the same weights");
        return NULL;
    }
    Py_RETURN_NONE;
}

#define ARGS PyObject *self, PyObject *const *args, Py_ssize_t given
#define BEGIN(wanted)                               \
    int64_t a[MAX_ARGS];                            \
    (void)self;                                     \
    if (!parse(args, given, wanted, a)) return NULL; \
    const Ops *ops = ops_of(a[0]);                  \
    if (!ops) return NULL;                          \
    const int threads = (int)a[1];

static PyObject *py_supports(PyObject *self, PyObject *isa) {
    (void)self;
    const long value = PyLong_AsLong(isa);
    if (value == -1 && PyErr_Occurred()) return NULL;
    return PyBool_FromLong(shira_ops((int)value) != NULL);
}

/* The address of shira_pool_run, for other extensions of this project that should share its threads. */
static PyObject *py_pool(PyObject *self, PyObject *unused) {
    (void)self;
    (void)unused;
    return PyLong_FromLongLong((long long)(uintptr_t)shira_pool_run);
}

static PyObject *py_exchange(ARGS) {
    BEGIN(9)
    int64_t *journal = pointer(a[7]);
    Py_BEGIN_ALLOW_THREADS
    if (journal) *journal = a[8];
    shira_exchange(ops, plan_of(a + 2), pointer(a[5]), pointer(a[6]), threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_overwrite(ARGS) {
    BEGIN(6)
    Py_BEGIN_ALLOW_THREADS
    shira_overwrite(ops, plan_of(a + 2), pointer(a[5]), threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_switch(ARGS) {
    BEGIN(13)
    Status status;
    Py_BEGIN_ALLOW_THREADS
    status = shira_switch(ops, plan_of(a + 2), pointer(a[5]), plan_of(a + 6), pointer(a[9]), pointer(a[10]),
                          pointer(a[11]), a[12], threads);
    Py_END_ALLOW_THREADS
    return none_or(status);
}

static PyObject *py_stage(ARGS) {
    BEGIN(7)
    int64_t lost;
    Py_BEGIN_ALLOW_THREADS
    lost = shira_stage(ops, plan_of(a + 2), pointer(a[5]), pointer(a[6]), threads);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(lost);
}

static PyObject *py_scan_indices(ARGS) {
    BEGIN(6)
    int64_t first;
    Py_BEGIN_ALLOW_THREADS
    first = shira_scan_indices(ops, pointer(a[2]), pointer(a[3]), pointer(a[4]), a[5], threads);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(first);
}

static PyObject *py_scan_values(ARGS) {
    BEGIN(5)
    int64_t first;
    Py_BEGIN_ALLOW_THREADS
    first = shira_scan_values(ops, pointer(a[2]), a[3], a[4], threads);
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(first);
}

static PyObject *py_union_count(ARGS) {
    BEGIN(6)
    (void)ops;
    Py_BEGIN_ALLOW_THREADS
    shira_union_count(pointer(a[2]), a[3], a[4], pointer(a[5]), threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_union_fill(ARGS) {
    BEGIN(8)
    Status status;
    Py_BEGIN_ALLOW_THREADS
    status = shira_union_fill(ops, pointer(a[2]), a[3], a[4], pointer(a[5]), pointer(a[6]), pointer(a[7]), threads);
    Py_END_ALLOW_THREADS
    return none_or(status);
}

static PyObject *py_rows(ARGS) {
    BEGIN(5)
    (void)ops;
    Py_BEGIN_ALLOW_THREADS
    shira_rows(pointer(a[2]), a[3], pointer(a[4]), threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_merge_count(ARGS) {
    BEGIN(4)
    (void)ops;
    Py_BEGIN_ALLOW_THREADS
    shira_merge_count(pointer(a[2]), a[3], threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_merge_fill(ARGS) {
    BEGIN(4)
    (void)ops;
    Py_BEGIN_ALLOW_THREADS
    shira_merge_fill(pointer(a[2]), a[3], threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_steps_count(ARGS) {
    BEGIN(4)
    (void)ops;
    Py_BEGIN_ALLOW_THREADS
    shira_steps_count(pointer(a[2]), a[3], threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_steps_fill(ARGS) {
    BEGIN(4)
    (void)ops;
    Py_BEGIN_ALLOW_THREADS
    shira_steps_fill(pointer(a[2]), a[3], threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *py_has_linear(ARGS) {
    int64_t a[2];
    (void)self;
    if (!parse(args, given, 2, a)) return NULL;
    const LinearOps *ops = shira_linear_ops((int)a[0]);
    return PyBool_FromLong(ops && (a[1] == SHIRA_F32    ? ops->has_linear_f32
                                   : a[1] == SHIRA_BF16 ? ops->has_linear_bf16
                                                        : 0));
}

/* Tables come as bytes objects, which live as long as the call. */
static PyObject *py_linear(ARGS) {
    int64_t a[7];
    char *tables[4];
    Py_ssize_t sizes[4];
    (void)self;
    if (given != 11) {
        PyErr_Format(PyExc_TypeError, "expected 7 integers and 4 bytes objects, got %zd arguments", given);
        return NULL;
    }
    if (!parse(args, 7, 7, a)) return NULL;
    for (int i = 0; i < 4; i++)
        if (PyBytes_AsStringAndSize(args[7 + i], &tables[i], &sizes[i])) return NULL;
    const LinearOps *ops = shira_linear_ops((int)a[0]);
    if (!ops || !ops_of(a[0])) return NULL;
    const Product product = {
        .x = pointer(a[2]),
        .in_features = a[3],
        .dtype = a[4],
        .out_dtype = a[5],
        .weights = (const Weight *)(const void *)tables[0],
        .num_weights = sizes[0] / (Py_ssize_t)sizeof(Weight),
        .groups = (const Group *)(const void *)tables[1],
        .num_groups = sizes[1] / (Py_ssize_t)sizeof(Group),
        .targets = (const Targets *)(const void *)tables[2],
        .y = (void *const *)(const void *)tables[3],
        .is_correction = (int)a[6],
    };
    Status status;
    Py_BEGIN_ALLOW_THREADS
    status = shira_linear(ops, &product, (int)a[1]);
    Py_END_ALLOW_THREADS
    return none_or(status);
}

#define METHOD(name) {#name, (PyCFunction)(void (*)(void))py_##name, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    {"supports", py_supports, METH_O, NULL},
    {"pool", py_pool, METH_NOARGS, NULL},
    METHOD(exchange),
    METHOD(overwrite),
    METHOD(switch),
    METHOD(stage),
    METHOD(scan_indices),
    METHOD(scan_values),
    METHOD(union_count),
    METHOD(union_fill),
    METHOD(rows),
    METHOD(merge_count),
    METHOD(merge_fill),
    METHOD(steps_count),
    METHOD(steps_fill),
    METHOD(has_linear),
    METHOD(linear),
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
