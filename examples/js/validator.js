// A validator: says what is wrong with its input, all of it at once.
const problems = [];
const check = (condition, path, problem) => {
  if (!condition) problems.push({ path, problem });
};

check(typeof input?.email === "string" && /^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(input.email), "email", "is no e-mail address");
check(Number.isInteger(input?.age) && input.age >= 18, "age", "must be a whole number from 18 on");
check(URL.canParse(input?.website ?? "https://example.com"), "website", "is no URL");
check(new Set(input?.tags ?? []).size === (input?.tags ?? []).length, "tags", "holds something twice");
for (const { path, problem } of problems) console.warn(`${path} ${problem}`);

output = { valid: problems.length === 0, problems };
