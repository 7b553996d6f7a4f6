;; A table of ten million entries, which costs the host 80 MB.
;; Expected: a typed refusal before any guest code runs; the host's memory stays flat.
(module
  (memory (export "memory") 1)
  (table 10000000 funcref)
  (func (export "_start")))
