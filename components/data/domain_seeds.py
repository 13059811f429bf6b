"""Where domain labels come from without a model: the kind of a source, and seed words in English and Chinese."""

import re

HINTS = {
    "encyclopedia": "encyclopaedia", "encyclopaedia": "encyclopaedia", "news": "news", "science": "science",
    "academic": "academic", "mathematics": "mathematics", "technology": "technology", "code": "code",
    "literature": "fiction", "fiction": "fiction", "reasoning": "education", "education": "education",
    "law": "law-finance", "finance": "law-finance", "law-finance": "law-finance", "e-commerce": "e-commerce",
    "conversation": "social", "social": "social", "entertainment": "entertainment",
}  # fmt: skip
"""``meta["domain_hint"]`` of a source -> domain. A hint that is not here (``web``) says nothing."""

_SEEDS = {
    "technology": """software hardware computer computers internet app apps smartphone android iphone server cloud
        database browser user users interface device devices programming linux windows processor algorithm network
        软件 硬件 计算机 互联网 手机 程序 网络 数据库 芯片""",
    "science": """species cells protein patients clinical disease treatment temperature energy molecules physics
        chemistry biology experiment genes genetic planet galaxy climate virus infection neurons quantum particles
        科学 物理 化学 生物 细胞 实验 病毒 基因 行星""",
    "academic": """abstract hypothesis methodology university professor journal thesis dissertation et al literature
        findings empirical peer-reviewed doi research researchers scholars citations theoretical framework
        论文 研究 大学 教授 学术 文献 理论""",
    "mathematics": """theorem proof lemma equation polynomial matrix integer integers prime algebra geometry calculus
        derivative integral vector finite function coefficients 定理 证明 方程 矩阵 整数 几何 代数""",
    "news": """reported officials police minister government president said yesterday monday tuesday wednesday thursday
        friday spokesman election campaign senate republican democrats reuters 记者 报道 总统 政府 选举 新华社""",
    "fiction": """whispered smiled sighed replied stared shouted laughed castle sword king queen princess dragon
        heart dream darkness silence moonlight 微笑 国王 公主 从前 故事 说道 森林""",
    "education": """students teacher teachers school classroom lesson lessons learn learning curriculum homework
        exam exams quiz question answer course courses college 学生 老师 学校 课程 考试 学习""",
    "law-finance": """court law legal judge attorney lawsuit contract tax taxes bank investment investors stock stocks
        shares market revenue loan mortgage insurance plaintiff defendant statute 法院 法律 合同 银行 投资 股票 税""",
    "e-commerce": """buy price shipping cart checkout discount order orders sale coupon warranty delivery product
        products customer customers refund brand stock size color 购买 价格 优惠 订单 商品 包邮 客服""",
    "social": """lol thanks hi hello hey guys please anyone posted comment comments reply thread forum dear yeah blog
        haha feel love 大家 朋友 评论 回复 论坛 谢谢 哈哈""",
    "entertainment": """movie movies film films song songs album band celebrity actor actress tv show episode concert
        music game games player players season team football fans 电影 电视 歌曲 演员 明星 音乐 游戏 球队""",
}
SEEDS: dict[str, frozenset[str]] = {domain: frozenset(words.split()) for domain, words in _SEEDS.items()}
_DOMAINS_OF: dict[str, list[str]] = {}
for _domain, _words in SEEDS.items():
    for _word in sorted(_words):
        _DOMAINS_OF.setdefault(_word, []).append(_domain)
_CHINESE = re.compile("|".join(sorted((w for w in _DOMAINS_OF if not w.isascii()), key=len, reverse=True)))
_WORD = re.compile(r"[a-z][a-z-]+")


def seed_label(text: str, minimum_words: int) -> str | None:
    """The domain with at least ``minimum_words`` different seed words and twice those of any other; else ``None``."""
    lower = text[:2000].lower()
    found = {word for word in (*_WORD.findall(lower), *_CHINESE.findall(lower)) if word in _DOMAINS_OF}
    counts: dict[str, int] = {}
    for word in found:
        for domain in _DOMAINS_OF[word]:
            counts[domain] = counts.get(domain, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if not ranked or ranked[0][1] < minimum_words:
        return None
    if len(ranked) > 1 and ranked[0][1] < 2 * ranked[1][1]:
        return None
    return ranked[0][0]


def without_seeds(text: str) -> str:
    """The text with every seed word left out, so that a classifier has to learn from what stands around them."""
    lower = text[:2000].lower()
    lower = _WORD.sub(lambda match: "" if match.group() in _DOMAINS_OF else match.group(), lower)
    return _CHINESE.sub("", lower)
