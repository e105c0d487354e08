/** One line of the table of benchmarks: a measured value beside its target. */
export interface Row {
    name: string;
    value: number;
    unit: string;
    /** As a person reads it: `>= 10,000`, `<= 2`. */
    target: string;
    pass: boolean;
}
