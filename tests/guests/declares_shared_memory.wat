;; A memory to share between threads.
;; Expected: invalid_module; that part of WebAssembly is switched off.
(module
  (memory (export "memory") 1 2 shared)
  (func (export "_start")))
