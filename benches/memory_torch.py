"""Peak memory of a training step in PyTorch, beyond parameters and optimizer state, for the models of memory.rs (profiler events)."""
import torch, torch.nn as nn, torch.nn.functional as F, sys
from torch.profiler import profile, ProfilerActivity
torch.manual_seed(0)
def peak(step):
    step(); step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as p:
        step()
    evs=[e for e in p.profiler.kineto_results.events() if e.name()=="[memory]"]
    evs.sort(key=lambda e:e.start_ns())
    cur=0; mx=0
    for e in evs:
        cur+=e.nbytes(); mx=max(mx,cur)
    return mx, cur
class CNN(nn.Module):
    def __init__(s):
        super().__init__()
        s.c1=nn.Conv2d(1,32,3,padding=1); s.c2=nn.Conv2d(32,64,3,padding=1); s.f1=nn.Linear(64*49,128); s.f2=nn.Linear(128,10)
    def forward(s,x):
        x=F.max_pool2d(F.relu(s.c1(x)),2); x=F.max_pool2d(F.relu(s.c2(x)),2)
        return s.f2(F.relu(s.f1(x.flatten(1))))
class Block(nn.Module):
    def __init__(s,d,h):
        super().__init__()
        s.l1=nn.LayerNorm(d); s.qkv=nn.Linear(d,3*d); s.o=nn.Linear(d,d); s.l2=nn.LayerNorm(d); s.u=nn.Linear(d,4*d); s.dn=nn.Linear(4*d,d); s.h=h
    def forward(s,x):
        B,T,C=x.shape
        q,k,v=s.qkv(s.l1(x)).chunk(3,-1)
        r=lambda t:t.reshape(B,T,s.h,C//s.h).transpose(1,2)
        y=F.scaled_dot_product_attention(r(q),r(k),r(v),is_causal=True).transpose(1,2).reshape(B,T,C)
        x=x+s.o(y)
        return x+s.dn(F.gelu(s.u(s.l2(x))))
class GPT(nn.Module):
    def __init__(s,V=512,d=256,L=4,T=128,h=8):
        super().__init__()
        s.te=nn.Embedding(V,d); s.pe=nn.Parameter(torch.zeros(T,d)); s.b=nn.ModuleList([Block(d,h) for _ in range(L)]); s.lf=nn.LayerNorm(d); s.head=nn.Linear(d,V,bias=False)
    def forward(s,i):
        x=s.te(i)+s.pe
        for b in s.b: x=b(x)
        return s.head(s.lf(x))
def run(m,x,y):
    opt=torch.optim.AdamW(m.parameters(),1e-3)
    def step():
        opt.zero_grad(set_to_none=True)
        out=m(x); loss=F.cross_entropy(out.reshape(-1,out.shape[-1]),y.reshape(-1)); loss.backward(); opt.step()
    return peak(step)
torch.set_num_threads(1)
print("cnn", run(CNN(),torch.randn(64,1,28,28),torch.randint(0,10,(64,))))
print("gpt", run(GPT(),torch.randint(0,512,(8,128)),torch.randint(0,512,(8,128))))
for m,n in((CNN(),"cnn"),(GPT(),"gpt")):
    print(n,"params",sum(p.numel()*4 for p in m.parameters()))
