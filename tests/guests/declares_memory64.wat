;; A memory with 64-bit addresses.
;; Expected: invalid_module; that part of WebAssembly is switched off.
(module
  (memory (export "memory") i64 1)
  (func (export "_start")))
