;; Returns a place for its reply that crosses the end of its memory.
;; Expected: trapped, memory out of bounds; not a byte beyond the memory is read.
(module
  (memory (export "memory") 1)
  (func (export "stockade_alloc") (param i32) (result i32) (i32.const 1024))
  (func (export "handle") (param i32 i32) (result i64) (i64.const 0xffff_00000002)))
