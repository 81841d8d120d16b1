import math, numpy as np, sys, json
from study import fit_rule as fr
from study.fit_rule import *
from findlr.analysis import belief, usual
from findlr.analysis.dip import read_dip, reading_of
truth=json.load(open('study/truth.json'))['tasks']
S=Sample(cases("variate","fit",True))
rows=[]
for c in S.cases:
    p=c.plan
    try: r=reading_of(c.curve); d=read_dip(c.curve); deep=float(r.fall.max()); place=d.place; noise=d.noise
    except Exception: deep=0; place=float('nan'); noise=1.8; d=None
    st=belief._start(c.curve); sp=c.curve.spread()
    rows.append(dict(task=c.truth.name,family=c.truth.family,opt=c.truth.optimizer,fam=p.optimizer,best=math.log10(c.truth.best_lr),place=place,noise=noise,density=d.density if d else 0,N=math.log10(max(p.parameters or 1e4,1000)/1e4),E=math.log10(min(max(p.epochs or 10,.1),1000)/10),T=math.log10(c.truth.total_steps/1000),B=math.log10(truth[c.truth.name]['batch_size']/32),start=st,deep=deep,spread=sp,pre=p.pretrained or 0.0,planned=usual.planned(p),delay=usual.delay(p),usual=usual.usual(p,st)))
json.dump(rows,open('/tmp/v/rows.json','w'))
print(len(rows), len(set(r['task'] for r in rows)))
