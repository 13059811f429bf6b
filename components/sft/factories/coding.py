"""Factory 3, coding: instruction pairs in many languages, static checks and generated unit tests in the sandbox.

One agent a language writes a program from an instruction; the tests are inputs whose expected outputs come from the
meaning of the instruction (Python callables here). Cross-execution: all languages' programs for one instruction read
the same tests, so what is kept in one language is what the others compute too.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from components.sandbox.languages import find_language
from components.sandbox.pool import SandboxPool, shared_pool
from components.sft.factories.factory import Candidate, Factory, Verdict, accept, reject
from components.sft.problems import user

TESTS = 6
"""Lines of input; the last is empty of numbers, as edge cases are."""


@dataclass(frozen=True)
class Agent:
    """How a language says it: ``@steps`` and ``@fold`` go into ``program``; ``x`` is how a number is called."""

    language: str
    program: str
    skip: str
    assign: str
    x: str = "x"
    r: str = "r"
    equals: str = "=="


_FOR_C = (
    "int main(void) {\n  static char line[9999];\n  while (fgets(line, sizeof line, stdin)) {\n    long long r = 0;\n"
)
AGENTS = (
    Agent("python", "import sys\n\nfor line in sys.stdin:\n    r = 0\n    for x in map(int, line.split()):\n@steps\n"
          "        @fold\n    print(r)\n", "        if not (@p):\n            continue", "        x = @e"),
    Agent("javascript", "const lines = require('fs').readFileSync(0, 'utf8').split('\\n').slice(0, -1);\n"
          "for (const line of lines) {\n  let r = 0;\n  for (let x of line.split(' ').filter(Boolean).map(Number)) {\n"
          "@steps\n    @fold;\n  }\n  console.log(r);\n}\n", "    if (!(@p)) continue;", "    x = @e;", equals="==="),
    Agent("ruby", "STDIN.each_line do |line|\n  r = 0\n  line.split.map(&:to_i).each do |x|\n@steps\n    @fold\n  end\n"
          "  puts r\nend\n", "    next unless @p", "    x = @e"),
    Agent("lua", "for line in io.lines() do\n  local r = 0\n  for word in line:gmatch('%d+') do\n"
          "    local x = math.tointeger(word)\n    repeat\n@steps\n    @fold\n    until true\n  end\n  print(r)\nend\n",
          "    if not (@p) then break end", "    x = @e"),
    Agent("perl", "use strict;\nuse warnings;\nwhile (my $line = <STDIN>) {\n  my $r = 0;\n"
          "  for my $n (split ' ', $line) {\n    my $x = $n;\n@steps\n    @fold;\n  }\n  print \"$r\\n\";\n}\n",
          "    next unless @p;", "    $x = @e;", "$x", "$r"),
    Agent("php", "<?php\nwhile (($line = fgets(STDIN)) !== false) {\n  $r = 0;\n"
          "  foreach (preg_split('/\\s+/', $line, -1, PREG_SPLIT_NO_EMPTY) as $x) {\n    $x = intval($x);\n@steps\n"
          "    @fold;\n  }\n  echo $r, PHP_EOL;\n}\n", "    if (!(@p)) continue;", "    $x = @e;", "$x", "$r"),
    Agent("awk", "{\n  r = 0\n  for (i = 1; i <= NF; i++) {\n    x = $i\n@steps\n    @fold\n  }\n  print r\n}\n",
          "    if (!(@p)) continue", "    x = @e"),
    Agent("c", f"#include <stdio.h>\n#include <stdlib.h>\n\n{_FOR_C}"
          "    for (char *place = line, *next; ; place = next) {\n      long long x = strtoll(place, &next, 10);\n"
          "      if (next == place) break;\n@steps\n      @fold;\n    }\n    printf(\"%lld\\n\", r);\n  }\n  "
          "return 0;\n}\n",
          "      if (!(@p)) continue;", "      x = @e;"),
    Agent("cpp", "#include <iostream>\n#include <sstream>\n#include <string>\n\nint main() {\n"
          "  for (std::string line; std::getline(std::cin, line);) {\n    std::istringstream numbers(line);\n"
          "    long long r = 0, x;\n    while (numbers >> x) {\n@steps\n      @fold;\n    }\n"
          "    std::cout << r << '\\n';\n  }\n}\n", "      if (!(@p)) continue;", "      x = @e;"),
    Agent("rust", "use std::io::{self, BufRead};\n\nfn main() {\n    for line in io::stdin().lock().lines() {\n"
          "        let mut r: i64 = 0;\n        for word in line.unwrap().split_whitespace() {\n"
          "            #[allow(unused_mut)]\n            let mut x: i64 = word.parse().unwrap();\n@steps\n"
          "            @fold;\n            let _ = x;\n        }\n        println!(\"{}\", r);\n    }\n}\n",
          "            if !(@p) { continue; }", "            x = @e;"),
    Agent("go", "package main\n\nimport (\n\t\"bufio\"\n\t\"fmt\"\n\t\"os\"\n\t\"strconv\"\n\t\"strings\"\n)\n\n"
                "func main() {\n"
          "\tlines := bufio.NewScanner(os.Stdin)\n\tfor lines.Scan() {\n\t\tr := 0\n"
          "\t\tfor _, word := range strings.Fields(lines.Text()) {\n\t\t\tx, _ := strconv.Atoi(word)\n@steps\n"
          "\t\t\t@fold\n\t\t\t_ = x\n\t\t}\n\t\tfmt.Println(r)\n\t}\n}\n"
          "", "\t\t\tif !(@p) { continue }", "\t\t\tx = @e"),
    Agent("java", "import java.util.Scanner;\n\npublic class Main {\n  public static void main(String[] arguments) {\n"
          "    Scanner lines = new Scanner(System.in);\n    while (lines.hasNextLine()) {\n      long r = 0;\n"
          "      Scanner numbers = new Scanner(lines.nextLine());\n      while (numbers.hasNextLong()) {\n"
          "        long x = numbers.nextLong();\n@steps\n        @fold;\n      }\n      System.out.println(r);\n "
          "   }\n  }\n}\n",
          "        if (!(@p)) continue;", "        x = @e;"),
)  # fmt: skip
_AGENTS = {agent.language: agent for agent in AGENTS}

Step = tuple[str, int]
_WORDS = {
    "even": "keep the even ones", "odd": "keep the odd ones", "above": "keep those above {k}",
    "below": "keep those below {k}", "multiples": "keep the multiples of {k}", "times": "multiply each by {k}",
    "plus": "add {k} to each", "square": "square each",
}  # fmt: skip
_PREDICATES = {"even": "{x} % 2 {eq} 0", "odd": "{x} % 2 {eq} 1", "above": "{x} > {k}", "below": "{x} < {k}",
               "multiples": "{x} % {k} {eq} 0"}  # fmt: skip
_CHANGES = {"times": "{x} * {k}", "plus": "{x} + {k}", "square": "{x} * {x}"}
_FOLDS = {"sum": ("their sum", "{r} = {r} + {x}"), "count": ("how many are left", "{r} = {r} + 1"),
          "alternate": ("their sum less the running total each time (r = x - r)", "{r} = {x} - {r}")}  # fmt: skip


def available_agents() -> list[str]:
    """Languages with an agent whose toolchain is installed."""
    return [agent.language for agent in AGENTS if not find_language(agent.language).missing_tools]


def write(rng: random.Random, planted_share: float) -> Iterator[Candidate]:
    """Every installed language in turn; a planted program does another step, or cannot be compiled."""
    known = available_agents()
    while True:
        steps = [(name, rng.randrange(2, 10)) for name in rng.sample(sorted(_WORDS), rng.choice((1, 2, 3)))]
        fold = rng.choice(sorted(_FOLDS))
        tests = [[rng.randrange(0, 40) for _ in range(rng.randrange(5, 12))] for _ in range(TESTS - 1)] + [[]]
        expected = [meaning(steps, fold, numbers) for numbers in tests]
        words = ", then ".join(_WORDS[name].format(k=k) for name, k in steps)
        for language in rng.sample(known, min(3, len(known))):
            planted = rng.choice(("logic", "syntax")) if rng.random() < planted_share else ""
            written, folded = list(steps), fold
            while planted == "logic" and [meaning(written, folded, numbers) for numbers in tests] == expected:
                written = [(name, rng.randrange(2, 10)) for name in rng.sample(sorted(_WORDS), len(steps))]
                folded = rng.choice(sorted(_FOLDS))
            program = render(_AGENTS[language], written, folded)
            if planted == "syntax":
                program = program.replace("(", "", 1) if language != "awk" else program.replace("}", "", 1)
            prompt = (
                f"Write a {language} program. Each line of standard input holds whole numbers. Of these, {words}; "
                f"print {_FOLDS[fold][0]}, one line for each line of input (0 for a line without numbers)."
            )
            given = [" ".join(map(str, numbers)) for numbers in tests]
            facts = {"tests": given, "language": language, "source": f"{words}; {fold}"}
            yield Candidate(language, user(prompt), program, expected, facts, planted)


def meaning(steps: Sequence[Step], fold: str, numbers: Sequence[int]) -> int:
    """What the instruction asks for."""
    keep = {"even": lambda x, k: x % 2 == 0, "odd": lambda x, k: x % 2 == 1, "above": lambda x, k: x > k,
            "below": lambda x, k: x < k, "multiples": lambda x, k: x % k == 0}  # fmt: skip
    change = {"times": lambda x, k: x * k, "plus": lambda x, k: x + k, "square": lambda x, k: x * x}
    values = list(numbers)
    for name, k in steps:
        values = [x for x in values if keep[name](x, k)] if name in keep else [change[name](x, k) for x in values]
    result = 0
    for x in values:
        result = x - result if fold == "alternate" else result + (x if fold == "sum" else 1)
    return result


def render(agent: Agent, steps: Sequence[Step], fold: str) -> str:
    """The program in the agent's language."""
    lines = []
    for name, k in steps:
        form = agent.skip if name in _PREDICATES else agent.assign
        text = (_PREDICATES.get(name) or _CHANGES[name]).format(x=agent.x, k=k, eq=agent.equals)
        lines.append(form.replace("@p", text).replace("@e", text))
    folded = _FOLDS[fold][1].format(r=agent.r, x=agent.x)
    return agent.program.replace("@steps", "\n".join(lines)).replace("@fold", folded)


def check(candidates: Sequence[Candidate], pool: SandboxPool | None = None) -> list[Verdict]:
    """Static check, compilation and all tests of each program, side by side in the sandbox."""
    jobs = (
        find_language(candidate.task).job(
            candidate.response,
            stdin="\n".join(candidate.facts["tests"]) + "\n",
            expected_output="\n".join(map(str, candidate.answer)),
        )
        for candidate in candidates
    )
    verdicts = []
    for result in (pool or shared_pool()).map(jobs):
        if result.status == "passed":
            verdicts.append(accept(tests=TESTS, step=result.step))
        else:
            verdicts.append(reject(result.status, step=result.step, stderr=result.stderr[-200:]))
    return verdicts


FACTORY = Factory(3, "coding", write, check)
