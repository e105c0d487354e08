/** Runs in the page: texts with a contrast below 4.5 to what they stand on (WCAG 2.2, 1.4.3). */
export function weakText(): string[] {
    type Colour = [number, number, number, number];
    const parse = (text: string): Colour => {
        const [r = 0, g = 0, b = 0, a = 1] = (text.match(/[\d.]+/g) ?? []).map(Number);
        return [r, g, b, a];
    };
    const luminance = ([r, g, b]: Colour) => {
        const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4)) as [number, number, number];
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element: Element): Colour => {
        for (let at: Element | null = element; at; at = at.parentElement) {
            const colour = parse(getComputedStyle(at).backgroundColor);
            if (colour[3] === 1) return colour;
        }
        return [255, 255, 255, 1];
    };
    const weak: string[] = [];
    const check = (element: Element, text: Colour, ground: Colour) => {
        const [a, b] = [luminance(text), luminance(ground)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) weak.push(`${element.tagName} ${element.getAttribute("class")} "${element.textContent?.trim().slice(0, 30)}" ${ratio.toFixed(2)}`);
    };
    for (const element of document.querySelectorAll(".wl-page :is(span, td, th, code, input, dt, dd, li, button, p[class^=wl-]), .wl-page div[class^=wl-], .v-card-title, .wl-badge, .v-toolbar-title")) {
        if ([...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent?.trim())) check(element, parse(getComputedStyle(element).color), behind(element));
    }
    const circle = document.querySelector(".wl-disc");
    const disc = circle ? parse(getComputedStyle(circle).fill) : parse("");
    for (const element of document.querySelectorAll(".wl-node text, .wl-node tspan")) check(element, parse(getComputedStyle(element).fill), disc);
    return [...new Set(weak)];
}
