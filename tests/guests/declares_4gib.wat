;; Its memory begins at 4 GiB.
;; Expected: out_of_memory before any guest code runs; the host's memory stays flat.
(module
  (memory (export "memory") 65536)
  (func (export "_start")))
