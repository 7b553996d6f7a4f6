;; Exports nothing that can be called.
;; Expected: invalid_module, no_entry.
(module
  (memory (export "memory") 1)
  (func $unheard (result i32) (i32.const 1)))
